"""`make bench`: every row of the table, both sides of each measured in turns in this run.

python -m tests.benchmarks [ROW …]     # some rows only: names, or their beginnings
"""

import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from adapters.malloc import keep_freed_memory
from service.settings import Settings
from tests.benchmarks import model, place, serving
from tests.benchmarks.compare import Row


def measurements(settings: Settings) -> dict[str, Callable[[], Iterator[Row]]]:
    """Row names, each with what yields it."""
    return {
        "mixed_tenants_vs_frozen": model.mixed_tenants_vs_frozen,
        "classify_http_vs_engine": lambda: serving.classify_http_vs_engine(settings),
        "classify_vs_naive_swap": lambda: serving.classify_vs_naive_swap(settings),
        "text_features_vs_open_clip": model.text_features_vs_open_clip,
        "fit_vs_naive_loop": model.fit_vs_naive_loop,
        "onnx_vs_torch": lambda: model.onnx_vs_torch(settings.cache_dir),
        "ten_thousand_adapters_vs_one": lambda: serving.ten_thousand_adapters_vs_one(settings),
        "publish_to_first_answer": lambda: serving.publish_to_first_answer(settings),
        "memory_of_1000_adapters": model.memory_of_a_thousand,
        "images_vs_matrix_products": model.share_of_matrix_rate,
        "quiet_p95_vs_under_a_flood": lambda: serving.flood_vs_quiet(settings),
        "gathered_vs_grouped": model.gathered_vs_grouped,
        "bf16_vs_fp32": model.bf16_vs_fp32,
        "int8_vs_fp32": lambda: model.int8_vs_fp32(settings.cache_dir),
        "compiled_vs_eager": model.compiled_vs_eager,
        "batch_sizes": lambda: model.batch_sizes(settings.cache_dir),
    }


def main() -> None:
    keep_freed_memory()
    wanted = tuple(sys.argv[1:])
    rows: list[Row] = []
    with place.settings() as settings:
        for title, measure in measurements(settings).items():
            if not wanted or title.startswith(wanted):
                for row in measure():
                    rows.append(row)
                    save(rows)
                    print(f"{row.name}: {row.ratio or row.ours:.3g}", file=sys.stderr)
    show(rows)


def save(rows: list[Row]) -> None:
    """benchmark.json, after each row, so that a run cut short leaves what it measured."""
    plain = {"machine": _machine(), "device": _device(), "rows": [row.to_dict() for row in rows]}
    Path("benchmark.json").write_text(json.dumps(plain, indent=1) + "\n")


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _machine() -> str:
    return f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table("row", "ratio", "target", "ours", "theirs", "unit", "n", "spread", "what")
    for r in rows:
        cells = (_number(r.ratio), _number(r.target), _number(r.ours), _number(r.theirs), r.unit)
        table.add_row(r.name, *cells, str(r.n), _number(r.spread), r.note)
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(_machine(), _device())
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
