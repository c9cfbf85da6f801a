"""The command line: `rmadapter …`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from service import __version__, logs, tracing
from service.cli.access import calls_service
from service.cli.classify import classify
from service.cli.evaluate import evaluate_app
from service.cli.export import export
from service.cli.importers import Labelled, from_folder
from service.cli.imports import import_app
from service.cli.login import login, logout
from service.cli.reach import Finding, reach
from service.cli.tenants import keys_app, tenants_app
from service.cli.terminal import (
    Cell,
    JsonFlag,
    coloured,
    connected,
    end,
    err,
    errors,
    out,
    print_json,
    show_list,
    table_of,
)
from service.cli.upload import show_count, show_left_out, upload_archive, upload_classes
from service.client import Client, ClientError, Json
from service.settings import Settings


class _Root(TyperGroup):
    """All commands. Those of the service itself need packages that its clients do without."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; what to install, where `pip install rmadapter` left its packages out."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if find_spec("torch") is not None:
                raise
            end(
                f"this command needs the service's packages, and {error.name} is not installed\n"
                "pip install 'rmadapter[cpu,embedded]', or 'rmadapter[gpu,embedded]' for an NVIDIA "
                "GPU"
            )


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0, done; 1, failed or refused; 2, the command line is wrong; 130, ended by "
    "Ctrl-C. `--install-completion` completes commands in your shell.",
)
app.add_typer(tenants_app, name="tenants")
app.add_typer(keys_app, name="keys")
app.add_typer(import_app, name="import")
app.add_typer(evaluate_app, name="evaluate", help="The paper's protocols, beside the baselines.")

Adapter = Annotated[str, typer.Option(help="the adapter's name")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"rmadapter {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """An image classifier of your own from a handful of labelled photos."""
    logs.set_up("text", "info")


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on; 0: any free one")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="folder for Redis, blobs and keys")] = None,
    model: Annotated[str | None, typer.Option(help="bundled, or open_clip's name")] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip's tag or a file")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, …")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, torch or onnx")] = None,
) -> None:
    """Starts everything on this machine: Redis, a worker, the API."""
    from adapters.malloc import keep_freed_memory
    from service.embedded import up as run_up

    given = {k: v for k, v in locals().items() if k in Settings.model_fields and v is not None}
    keep_freed_memory()
    with errors():
        run_up(_observed(Settings(**given), "rmadapter"))


@app.command()
def serve() -> None:
    """Starts only an API server, on RMADAPTER_REDIS_URL and RMADAPTER_BLOB_URL."""
    from adapters.malloc import keep_freed_memory
    from service.http.server import listen, serve_app
    from service.wiring import open_components

    keep_freed_memory()
    with errors():
        settings = _observed(Settings(), "rmadapter-api")
        with listen(settings) as listener:
            serve_app(open_components(settings), listener, settings.drain_seconds)


@app.command()
def worker(
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="stop when this process ends")
    ] = None,
) -> None:
    """Starts only a worker. After SIGTERM it finishes the current fit, then stops."""
    from adapters.malloc import keep_freed_memory
    from service.worker import run

    keep_freed_memory()
    with errors():
        run(_observed(Settings(), "rmadapter-worker"), parent)


@app.command()
def weights() -> None:
    """Fetches the model's weights once, so that servers and workers start without the internet."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from service.wiring import clip_of

    with errors():
        out.print(f"{clip_of(Settings()).name}: cache {HF_HUB_CACHE}", soft_wrap=True)


def _observed(settings: Settings, name: str) -> Settings:
    """Logs as the settings say, and traces where OTEL_* variables say."""
    logs.set_up(settings.log_format, settings.log_level)
    tracing.set_up(name)
    return settings


app.command()(calls_service(login))
app.command()(logout)


@app.command()
@calls_service
def fit(
    adapter: Adapter,
    source: Annotated[
        Path | None, typer.Argument(help="a folder, zip or tar with a folder per class")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="the id of a data set, instead of SOURCE")
    ] = None,
    if_better: Annotated[
        bool, typer.Option(help="publish only if not worse than the live version")
    ] = False,
    instant: Annotated[
        bool, typer.Option("--instant", help="use the photos' features alone: seconds, no training")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Uploads labelled photos, fits an adapter and publishes it.

    Example: rmadapter fit ./flowers --adapter flowers
    """
    if (source is None) == (dataset is None):
        raise typer.BadParameter("give either SOURCE or --dataset")
    with errors(), connected() as client:
        if source is not None:
            labelled = _read(source)
            dataset = client.create_dataset(source.absolute().stem[:100] or "upload")
            if labelled is None:
                upload_archive(client, dataset, source)
            else:
                show_count(labelled)
                upload_classes(client, dataset, labelled)
        assert dataset is not None
        job = client.create_job(
            dataset,
            adapter,
            publish="if_better" if if_better else True,
            **({"fit": "instant"} if instant else {}),
        )
        job = follow(client, job["job"])
        _show_fit(job, as_json)


app.command()(calls_service(classify))


@app.command()
@calls_service
def adapters(as_json: JsonFlag = False) -> None:
    """Lists adapters and their versions."""
    columns = ("adapter", "version", "kind", "", "classes", "held-out accuracy", "zero-shot")
    show_list("/v1/adapters", as_json, columns, _version_rows)


def _version_rows(adapter: Json) -> Iterator[tuple[Cell, ...]]:
    for version in adapter["versions"]:
        metrics = version["metrics"]
        yield (
            adapter["adapter"],
            str(version["version"]),
            version.get("kind", "full"),
            coloured("live" if version["live"] else ""),
            str(len(version["classes"])),
            _accuracy(metrics.get("adapted")),
            _accuracy(metrics.get("zero_shot")),
        )


@app.command()
@calls_service
def datasets(as_json: JsonFlag = False) -> None:
    """Lists data sets."""
    show_list("/v1/datasets", as_json, ("data set", "name", "photos", "classes"), _dataset_rows)


def _dataset_rows(dataset: Json) -> Iterator[tuple[Cell, ...]]:
    classes = ", ".join(f"{name} ({count})" for name, count in dataset["labels"].items())
    yield dataset["dataset"], dataset["name"], str(dataset["images"]), classes


@app.command()
@calls_service
def publish(
    adapter: Annotated[str, typer.Argument(help="its name")],
    version: Annotated[int, typer.Argument(help="a newer version, or an older one to roll back")],
    as_json: JsonFlag = False,
) -> None:
    """Makes a version live. No request is missed.

    Example: rmadapter publish flowers 2
    """
    with errors(), connected() as client:
        made = client.publish(adapter, version)
    if as_json:
        print_json(made)
    else:
        out.print(f"{adapter} version {version} is live", highlight=False)


app.command()(export)


@app.command()
@calls_service
def jobs(as_json: JsonFlag = False) -> None:
    """Lists fits."""
    columns = ("job", "adapter", "state", "version", "started", "error")
    show_list("/v1/jobs", as_json, columns, _job_rows)


@app.command()
@calls_service
def cancel(
    job: Annotated[str, typer.Argument(help="its id, as `jobs` has it")], as_json: JsonFlag = False
) -> None:
    """Cancels a fit that waits or runs.

    Example: rmadapter cancel job_0123456789abcdef
    """
    with errors(), connected() as client:
        ended = client.call("DELETE", f"/v1/jobs/{job}")
    if as_json:
        print_json(ended)
    else:
        out.print(f"{job} {ended['state']}", highlight=False)


def _job_rows(job: Json) -> Iterator[tuple[Cell, ...]]:
    optional = (str(job[name] or "") for name in ("version", "started_at", "error"))
    yield (job["job"], job["adapter"], coloured(job["state"]), *optional)


@app.command()
@calls_service
def doctor(
    as_json: JsonFlag = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="list where Redis and the object store disagree")
    ] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="with --orphans: delete such files and records")
    ] = False,
) -> None:
    """Checks service and key; then, of a service here, GPU, model, Redis, blob store and disk.

    It says what to fix, and exits with 1 where something is wrong.

    Example: RMADAPTER_REDIS_URL=redis://redis:6379 rmadapter doctor
    """
    logs.set_up("text", "error")
    if orphans:
        _show_orphans(as_json, mend)
        return
    with errors():
        found = list(_findings(Settings()))
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        rows = [(coloured(f.state), f.what, f.says, f.mend) for f in found]
        out.print(table_of(("", "what", "found", "to fix"), rows))
    if any(finding.state == "fail" for finding in found):
        raise typer.Exit(1)


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from reach(settings)
    if find_spec("torch") is None:  # a client alone
        return
    from service.cli.doctor import findings

    yield from findings(settings)


def _show_orphans(as_json: bool, mend: bool) -> None:
    from service.records.orphans import mend as mend_all
    from service.records.orphans import orphans
    from service.wiring import records_of

    with errors():
        records = records_of(Settings())
        found = list(orphans(records))
        if mend:
            mend_all(records, found)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    says = {"file": "no record names it", "picture": "its file is missing"}
    rows = [(one.kind, one.path, says.get(one.kind, says["picture"])) for one in found]
    if rows:
        out.print(table_of(("", "path", "found"), rows))
    end = "are deleted within ten minutes" if mend else "--mend deletes them"
    out.print(f"{len(rows)} found; {end}" if rows else "the two stores agree")


@app.command()
def openapi() -> None:
    """Prints the API's OpenAPI document.

    Example: rmadapter openapi > openapi.json
    """
    from service.http.app import document

    print_json(document())


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="a tar file; compressed if named …gz")],
    as_json: JsonFlag = False,
) -> None:
    """Writes a backup of all tenants into one file; servers and workers keep running.

    Example: rmadapter backup rmadapter.tar
    """
    from service.errors import Unavailable
    from service.records.backup import backup as run_backup
    from service.records.deletion import Pending
    from service.wiring import records_of

    with errors():
        records = records_of(Settings())
        try:
            pending = Pending(records.deletion.paths())
        except Unavailable as error:
            err.print(f"{error}: what was deleted a moment ago may be in the backup")
            pending = Pending(())
        blobs = run_backup(records.blobs, file, pending)
    if as_json:
        print_json({"blobs": blobs, "file": str(file)})
    else:
        out.print(f"{blobs} blobs in {file}")


@app.command()
def restore(
    file: Annotated[Path | None, typer.Argument(help="a file that `backup` wrote")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rebuilds Redis from the object store; with FILE, an empty deployment from a backup."""
    from service.embedded import stopped
    from service.records.backup import restore_backup
    from service.records.restore import restore as run_restore
    from service.wiring import records_of

    with errors(), stopped(Settings()) as settings:
        records = records_of(settings)
        unread: list[tuple[str, str]] = []

        def left_out(path: str, reason: str) -> None:
            unread.append((path, reason))

        if file:
            restored = restore_backup(records, file, left_out)
        else:
            restored = run_restore(records, left_out)
    if as_json:
        left = [{"file": path, "reason": reason} for path, reason in unread]
        print_json({"tenants": restored, "left_out": left})
    else:
        out.print(f"restored {restored} tenants")
        show_left_out(unread)
    if unread:
        raise typer.Exit(1)


def follow(client: Client, job_id: str) -> Json:
    """Shows a fit's progress until it ends; returns the ended job."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    loss = TextColumn("{task.fields[loss]}")
    told = False
    shown_columns = (*columns, TimeRemainingColumn(), loss)
    with _cancelled_by_ctrl_c(client, job_id), Progress(*shown_columns, console=err) as bar:
        task = bar.add_task("waiting for a worker", total=None, loss="")
        for job in client.job_events(job_id):
            if not told and (first := job.get("instant_version")):
                told = True
                err.print(f"instant version {first} answers until the fit ends")
            bar.update(task, description=_stage(job))
            if progress := job["progress"]:
                shown = f"loss {progress['loss']:.3f}"
                bar.update(task, total=progress["steps"], completed=progress["step"], loss=shown)
    return job


@contextmanager
def _cancelled_by_ctrl_c(client: Client, job_id: str) -> Iterator[None]:
    """Nobody waits for the fit any more: its worker is free for the next one."""
    try:
        yield
    except KeyboardInterrupt:
        ended = client.call("DELETE", f"/v1/jobs/{job_id}")
        err.print(f"{job_id} {ended['state']}", highlight=False)
        raise


def _stage(job: Json) -> str:
    """What a job does, in a few words; a server of an earlier release says no stage."""
    progress = job["progress"] or {}
    folds = (progress.get("parts") or 1) - 1
    words = {
        "reading": "reading the photos",
        "instant": "instant version",
        "estimating": f"estimating {progress.get('part')} of {folds}",
        "final": "final fit",
    }
    return words.get(job.get("stage") or "", "fit")


def _read(source: Path) -> Labelled | None:
    """A folder's photos, before anything is sent; None for an archive."""
    if not source.exists():
        raise ClientError(f"{source} does not exist")
    if source.is_file():
        return None
    labelled = from_folder(source)
    if not labelled.classes:
        raise ClientError(
            f"{source} has no folders with pictures: each class needs a folder with its name"
        )
    return labelled


def _show_fit(job: Json, as_json: bool) -> None:
    if as_json:
        print_json(job)
    elif job["state"] == "succeeded":
        metrics = job["metrics"]
        state = "published" if job["published"] else "kept, not published"
        kind = "instant version" if metrics.get("kind") == "instant" else "version"
        out.print(f"{job['adapter']} {kind} {job['version']} {state}")
        out.print(f"on photos held back: {_accuracy(metrics['adapted'])}", end=", ")
        out.print(f"zero-shot {_accuracy(metrics['zero_shot'])}")
    if job["state"] != "succeeded":
        raise ClientError(f"the fit has {job['state']}: {job['error'] or ''}")


def _accuracy(report: Json | None) -> str:
    if not report:
        return "not measured"
    low, high = report["interval"]
    return f"{report['accuracy']:.1%} ({low:.0%}–{high:.0%}, {report['images']} photos)"
