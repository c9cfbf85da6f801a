"""The command line: `rmadapter …`."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from service import logs, tracing
from service.client import Client, ClientError, Json
from service.console import err, errors, out, print_json
from service.evaluate import evaluate_app
from service.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
tenants_app = typer.Typer(no_args_is_help=True, help="Tenants, for the administrator.")
app.add_typer(tenants_app, name="tenants")
app.add_typer(evaluate_app, name="evaluate", help="The paper's protocols, with its peers.")

_CLASSIFY_AT_ONCE = 32  # pictures of one request

JsonFlag = Annotated[bool, typer.Option("--json", help="JSON for machines")]
Adapter = Annotated[str, typer.Option(help="the adapter's name")]


@app.callback()
def main() -> None:
    """An image classifier of your own from a handful of labelled photos."""
    logs.set_up("text", "info")


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free one")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Redis, blobs and keys")] = None,
    model: Annotated[str | None, typer.Option(help="bundled, or open_clip's name")] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip's tag or a file")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, …")] = None,
    backend: Annotated[str | None, typer.Option(help="auto or torch")] = None,
) -> None:
    """Starts everything on this machine: Redis, a worker, the API."""
    from adapters.memory import keep_freed_memory
    from service.up import up as run_up

    given = {k: v for k, v in locals().items() if k in Settings.model_fields and v is not None}
    keep_freed_memory()
    with errors():
        run_up(_observed(Settings(**given), "rmadapter"))


@app.command()
def serve() -> None:
    """An API server alone, against RMADAPTER_REDIS_URL and RMADAPTER_BLOB_URL."""
    from adapters.memory import keep_freed_memory
    from service.services import open_services
    from service.up import listen, serve_app

    keep_freed_memory()
    with errors():
        settings = _observed(Settings(), "rmadapter-api")
        with listen(settings) as listener:
            serve_app(open_services(settings), listener, settings.drain_seconds)


@app.command()
def worker(
    parent: Annotated[int | None, typer.Option(hidden=True, help="end when it does")] = None,
) -> None:
    """A training worker alone, against the same. SIGTERM: ends the fit in hand, then stops."""
    from prometheus_client import start_http_server

    from adapters.memory import keep_freed_memory
    from service.desk import RegistryDesk
    from service.services import broker_of, clip_of, image_limits, registry_of
    from training import worker as training_worker

    keep_freed_memory()
    with errors():
        settings, stop = _observed(Settings(), "rmadapter-worker"), threading.Event()
        if settings.worker_metrics_port:
            start_http_server(settings.worker_metrics_port)
        registry = registry_of(settings)
        registry.refuse_newer()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        if parent is not None:
            threading.Thread(target=_stop_with, args=(parent, stop), daemon=True).start()
        clip = clip_of(settings)
        desk = RegistryDesk(registry, clip, image_limits(settings), settings.min_images)
        training_worker.run(broker_of(settings), clip, desk, stop)
        tracing.flush()


def _observed(settings: Settings, name: str) -> Settings:
    """Logs as the settings say, and traces where OTEL_* variables say."""
    logs.set_up(settings.log_format, settings.log_level)
    tracing.set_up(name)
    return settings


@app.command()
def fit(
    source: Annotated[Path, typer.Argument(help="a folder, zip or tar with a folder a class")],
    adapter: Adapter,
    if_better: Annotated[bool, typer.Option(help="publish only if not worse")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Uploads labelled photos, fits an adapter and publishes it.

    Example: rmadapter fit ./flowers --adapter flowers
    """
    with errors(), _client() as client:
        dataset = client.create_dataset(source.stem[:100] or "upload")
        _upload(client, dataset, source)
        job = client.create_job(dataset, adapter, publish="if_better" if if_better else True)
        job = follow(client, job["job"])
        _show_fit(job, as_json)


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="pictures")],
    classes: Annotated[str | None, typer.Option(help="names, by commas")] = None,
    adapter: Annotated[str | None, typer.Option(help="without: zero-shot")] = None,
    min_score: Annotated[float | None, typer.Option(help="below it: none of these")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Classifies photos.

    Example: rmadapter classify *.jpg --adapter flowers --classes rose,tulip
    """
    names = [name.strip() for name in classes.split(",")] if classes is not None else None
    with errors(), _client() as client:
        results: list[Json] = []
        for start in range(0, len(images), _CLASSIFY_AT_ONCE):
            files = [(str(p), p.read_bytes()) for p in images[start : start + _CLASSIFY_AT_ONCE]]
            answer = client.classify(files, names, adapter, min_score=min_score, top_k=3)
            results += answer["results"]
        answer["results"] = results
        if as_json:
            print_json(answer)
        else:
            _show_answers(answer)
    if any(result["error"] for result in results):
        raise typer.Exit(1)


@app.command()
def adapters(as_json: JsonFlag = False) -> None:
    """Lists adapters and their versions."""
    with errors(), _client() as client:
        items = list(client.pages("/v1/adapters"))
    if as_json:
        print_json(items)
        return
    table = Table("adapter", "version", "live", "classes", "held-out accuracy", "zero-shot")
    for item in items:
        for version in item["versions"]:
            metrics = version["metrics"]
            table.add_row(
                item["adapter"],
                str(version["version"]),
                "yes" if version["live"] else "",
                str(len(version["classes"])),
                _accuracy(metrics.get("adapted")),
                _accuracy(metrics.get("zero_shot")),
            )
    out.print(table)


@app.command()
def jobs(as_json: JsonFlag = False) -> None:
    """Lists fits."""
    with errors(), _client() as client:
        items = list(client.pages("/v1/jobs"))
    if as_json:
        print_json(items)
        return
    table = Table("job", "adapter", "state", "version", "started", "error")
    for job in items:
        version = str(job["version"] or "")
        row = (job["job"], job["adapter"], job["state"], version, job["started_at"] or "")
        table.add_row(*row, job["error"] or "")
    out.print(table)


@tenants_app.command("list")
def list_tenants(as_json: JsonFlag = False) -> None:
    """All tenants."""
    with errors(), _client(admin=True) as client:
        items = list(client.pages("/v1/tenants"))
    if as_json:
        print_json(items)
        return
    table = Table("tenant", "name", "created")
    for tenant in items:
        table.add_row(tenant["tenant"], tenant["name"], tenant["created_at"])
    out.print(table)


@tenants_app.command("create")
def create_tenant(name: str) -> None:
    """Makes a tenant and prints its key, this once."""
    with errors(), _client(admin=True) as client:
        print_json(client.call("POST", "/v1/tenants", json={"name": name}))


@tenants_app.command("rotate")
def rotate_key(tenant: str) -> None:
    """A new key for a tenant; the old one ends at once."""
    with errors(), _client(admin=True) as client:
        print_json(client.call("POST", f"/v1/tenants/{tenant}/keys"))


@tenants_app.command("erase")
def erase_tenant(
    tenant: str, yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False
) -> None:
    """Erases a tenant with all its data."""
    if not yes:
        typer.confirm(f"Erase {tenant} with all its pictures and adapters?", abort=True)
    with errors(), _client(admin=True) as client:
        client.call("DELETE", f"/v1/tenants/{tenant}")


@app.command()
def backup(file: Annotated[Path, typer.Argument(help="a tar file; …gz: compressed")]) -> None:
    """Writes all tenants' pictures, adapters and hashes of keys into one file; all may run on.

    Example: rmadapter backup rmadapter.tar
    """
    from service.backup import backup as run_backup
    from service.services import registry_of

    with errors():
        out.print(f"{run_backup(registry_of(Settings()).blobs, file)} blobs in {file}")


@app.command()
def restore(
    file: Annotated[Path | None, typer.Argument(help="what `backup` wrote")] = None,
) -> None:
    """Makes an emptied Redis anew from the blob store; with FILE, an empty deployment from it."""
    from service.backup import restore_backup
    from service.restore import restore as run_restore
    from service.services import registry_of
    from service.up import stopped

    with errors(), stopped(Settings()) as settings:
        registry = registry_of(settings)
        restored = restore_backup(registry, file) if file else run_restore(registry)
        out.print(f"restored {restored} tenants")


def _stop_with(parent: int, stop: threading.Event) -> None:
    """A parent that was killed cannot stop its children."""
    while os.getppid() == parent:
        time.sleep(1.0)
    stop.set()


def follow(client: Client, job_id: str) -> Json:
    """Shows a fit's progress until it ended; the ended job."""
    columns = (TextColumn("fit"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    loss = TextColumn("{task.fields[loss]}")
    with Progress(*columns, loss, console=err) as bar:
        task = bar.add_task("fit", total=None, loss="waiting for a worker")
        for job in client.job_events(job_id):
            progress = job["progress"]
            if progress:
                shown = f"loss {progress['loss']:.3f}"
                bar.update(task, total=progress["steps"], completed=progress["step"], loss=shown)
    return job


def _upload(client: Client, dataset: str, source: Path) -> None:
    if not source.exists():
        raise ClientError(f"{source} does not exist")
    if source.is_file():
        _show_rejected(client.upload_archive(dataset, source))
        return
    folders = {
        folder.name: sorted(f for f in folder.iterdir() if f.is_file())
        for folder in sorted(source.iterdir())
        if folder.is_dir()
    }
    with Progress(console=err) as bar:
        task = bar.add_task("upload", total=sum(map(len, folders.values())))
        for label, files in folders.items():
            for answer in client.upload_class(dataset, label, files):
                bar.advance(task, answer["accepted"] + len(answer["rejected"]))
                _show_rejected(answer)


def _show_rejected(answer: Json) -> None:
    for rejected in answer["rejected"]:
        err.print(f"[yellow]left out[/] {rejected['file']}: {rejected['reason']}")


def _show_fit(job: Json, as_json: bool) -> None:
    if as_json:
        print_json(job)
    elif job["state"] == "succeeded":
        metrics = job["metrics"]
        state = "published" if job["published"] else "kept, not published"
        out.print(f"{job['adapter']} version {job['version']} {state}")
        out.print(f"on photos held back: {_accuracy(metrics['adapted'])}", end=", ")
        out.print(f"zero-shot {_accuracy(metrics['zero_shot'])}")
    if job["state"] != "succeeded":
        raise ClientError(f"the fit has {job['state']}: {job['error'] or ''}")


def _show_answers(answer: Json) -> None:
    name = f"{answer['adapter']} version {answer['version']}" if answer["adapter"] else "zero-shot"
    table = Table("file", "label", "score", "next", title=name)
    for result in answer["results"]:
        if result["error"]:
            table.add_row(result["file"], f"[red]{result['error']}[/]", "", "")
            continue
        first, *others = result["predictions"]
        rest = ", ".join(f"{p['label']} {p['score']:.2f}" for p in others)
        label = result["label"] or "[dim]none of these[/]"
        table.add_row(result["file"], label, f"{first['score']:.2f}", rest)
    out.print(table)


def _accuracy(report: Json | None) -> str:
    if not report:
        return "not measured"
    low, high = report["interval"]
    return f"{report['accuracy']:.1%} ({low:.0%}–{high:.0%}, {report['images']} photos)"


@contextmanager
def _client(admin: bool = False) -> Iterator[Client]:
    settings = Settings()
    url = os.environ.get("RMADAPTER_URL", f"http://{settings.host}:{settings.port}")
    with Client(url, _key(settings, admin)) as client:
        yield client


def _key(settings: Settings, admin: bool) -> str:
    """From the environment, else from the file that `up` wrote."""
    name = "RMADAPTER_ADMIN_KEY" if admin else "RMADAPTER_API_KEY"
    if name in os.environ:
        return os.environ[name]
    file = settings.data_dir / ("admin.key" if admin else "default.key")
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ClientError(f"no key: set {name}, or start `rmadapter up` ({file})") from error
