"""`rmadapter export`: a version as a zip that runs without the service."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from service.cli.access import calls_service
from service.cli.terminal import JsonFlag, connected, err, errors, out, print_json
from service.client import Client, ClientError
from service.settings import Settings


@calls_service
def export(
    adapter: Annotated[str, typer.Argument(help="its name")],
    file_format: Annotated[Literal["onnx"], typer.Option("--format", help="of the file")] = "onnx",
    version: Annotated[int | None, typer.Option(help="unset: the live one")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="unset: NAME-VERSION.zip")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="matrix products in eight bits: smaller, less exact")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Writes a zip with one ONNX file, pixels to probabilities, and a program that runs it.

    Runs here, on the CLIP of RMADAPTER_MODEL and RMADAPTER_PRETRAINED.

    Example: rmadapter export flowers --format onnx
    """
    from adapters.artifact import decode_artifact, sha256
    from adapters.clip import load_clip
    from service.portable import Portable, write_portable
    from service.portable.licences import licence_of

    with errors():
        settings = Settings()
        with connected() as client:
            number = version or _live(client, adapter)
            data = client.artifact(adapter, number)
        licence = licence_of(settings.model, settings.pretrained)
        if licence.warning:
            err.print(f"[yellow]warning[/] {licence.warning}", highlight=False, soft_wrap=True)
        clip = load_clip(settings.model, settings.pretrained)
        file = to or Path(f"{adapter}-{number}.zip")
        portable = Portable(decode_artifact(data), sha256(data), licence, int8)
        with err.status("exporting"):
            write_portable(clip, portable, file)
        if as_json:
            print_json({"file": str(file), "adapter": adapter, "version": number})
            return
        out.print(f"{file}: {adapter} version {number}, {file.stat().st_size / 2**20:.0f} MB")


def _live(client: Client, adapter: str) -> int:
    live = client.call("GET", f"/v1/adapters/{adapter}")["live"]
    if live is None:
        raise ClientError(f"no version of {adapter!r} is published: give --version")
    return int(live)
