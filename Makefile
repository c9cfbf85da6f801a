.PHONY: setup demo serve test soak check audit bench gpu docs lock sbom

PYTHON ?= python3
COMMA := ,
BIN := .venv/bin
AUDIT := .venv/audit.json

# What is installed: PyTorch's build for the GPU that uv sees, or for none, from PyTorch's own index.
# Where that is not reached: PyPI's, with CUDA. Where uv reaches nothing: by pip, which reads pip.conf.
# triton (1 GB) compiles kernels on a GPU; nothing here asks for one.
WITHOUT := .venv/without.txt
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --override $(WITHOUT)
define install
$(UV) --torch-backend=auto --editable '.[$(1)]' 2> .venv/uv.log || \
	{ echo "PyTorch's own index is not reached (.venv/uv.log): its build with CUDA, from PyPI"; \
	$(UV) --editable '.[$(1)]'; } || \
	$(BIN)/python -m pip install --quiet --editable '.[$(1)]'
endef

setup: .venv/.dev  ## .venv with everything

.venv/.demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	@echo "triton; sys_platform == 'none'" > $(WITHOUT)
	@$(call install,embedded$(COMMA)cpu)
	touch $@

.venv/.dev: .venv/.demo
	@$(call install,embedded$(COMMA)cpu$(COMMA)dev)
	touch $@

demo: .venv/.demo  ## starts the service, fits on bundled sample photos, prints a table
	$(BIN)/python -m service.demo

serve: .venv/.demo  ## rmadapter up
	$(BIN)/rmadapter up

# Half of it waits for other processes; two at a time, with a thread each, take half as long.
test: setup  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench: setup  ## both sides of every speed figure, and benchmark.json
	$(BIN)/python -m tests.benchmarks

gpu: setup  ## what a GPU changes: its tests, then every speed figure on it
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make gpu: PyTorch \
	sees no GPU here; .venv/bin/rmadapter doctor says more"); print(torch.cuda.get_device_name())'
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m tests.benchmarks

# Not --quiet: then warnings are not counted, and a dead link fails nothing.
docs: .venv/.docs  ## docs/ as a site, into site/; fails on a dead link
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict \
		--config-file docs/site/mkdocs.yml --site-dir $(CURDIR)/site

.venv/.docs: .venv/.dev
	@$(call install,embedded$(COMMA)cpu$(COMMA)dev$(COMMA)docs)
	touch $@

soak: setup  ## kills, isolation, overload, fuzzing: hours; make soak SOAK="--minutes 5 --rounds 10"
	$(BIN)/python -m tests.soak $(SOAK)

check: setup audit  ## lint, format, spelling, types, layering, unsafe calls, known holes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive adapters training service

# Fails on a known vulnerability. That the advisories cannot be reached is said, and fails nothing:
# pip-audit then writes no report, or one that lists every package as skipped.
audit: setup
	@rm -f $(AUDIT); $(BIN)/pip-audit --skip-editable --progress-spinner off \
		--format json --output $(AUDIT) 2> $(AUDIT).log; code=$$?; \
	if grep -q '"vulns": *\[ *{' $(AUDIT) 2> /dev/null; then \
		cat $(AUDIT).log; $(BIN)/python -m json.tool $(AUDIT); exit 1; \
	elif grep -q '"vulns"' $(AUDIT) 2> /dev/null; then \
		echo "pip-audit: no known vulnerability in" \
			"$$(grep -o '"vulns"' $(AUDIT) | wc -l) packages," \
			"$$(grep -o '"skip_reason"' $(AUDIT) | wc -l) could not be looked up"; \
	else \
		echo "pip-audit: NOT AUDITED (exit $$code): the advisory database was not reached"; \
	fi

COMPILE := $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url \
	--no-annotate --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
	--custom-compile-command "make lock"
LOCK := $(COMPILE) pyproject.toml
BACKEND := import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
CUDA_BUILD := torch torchvision triton cuda-bindings cuda-pathfinder cuda-toolkit \
	$$(grep -o '^nvidia-[a-z0-9-]*' docker/requirements.gpu.lock)

# PyTorch's CPU build lies on an index of its own: the Dockerfile takes the GPU lock's versions there.
lock: setup  ## the images' packages: exact versions and hashes
	$(LOCK) --extra gpu --extra otel --output-file docker/requirements.gpu.lock
	$(LOCK) --extra cpu --extra otel --constraint docker/requirements.gpu.lock \
		$$(for name in $(CUDA_BUILD); do echo --no-emit-package $$name; done) \
		--output-file docker/requirements.cpu.lock
	$(BIN)/python -c '$(BACKEND)' | $(COMPILE) - --output-file docker/requirements.build.lock

# Of the Python packages, by the locks. `docker buildx build --sbom=true` lists all that is in an image.
sbom: setup  ## dist/sbom.gpu.json and dist/sbom.cpu.json, CycloneDX
	@mkdir -p dist
	for kind in gpu cpu; do $(BIN)/cyclonedx-py requirements docker/requirements.$$kind.lock \
		--output-format JSON --output-file dist/sbom.$$kind.json; done
