"""`rmadapter evaluate …` compares the method with the baselines under the field's protocols."""

# ruff: noqa: PLR0913, PLR0917 - a command's options are its arguments

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from adapters.errors import RMAdapterError
from adapters.malloc import keep_freed_memory
from service.cli.terminal import Cell, err, errors, out, print_json, table_of

if TYPE_CHECKING:
    from adapters.clip import FrozenCLIP
    from training.protocols import Mixed, OnFit, Plan, Result

evaluate_app = typer.Typer(
    no_args_is_help=True, help="Accuracy beside the baselines and the paper."
)

_ALL = "zero-shot,lp++,tip-adapter-f,clip-lora,mma,rmadapter,rmadapter+photos"

Data = Annotated[Path, typer.Option(help="a zip, a folder per class, or CoOp's layout")]
Source = Annotated[Path, typer.Option("--data", help="what to train on, as in base-to-novel")]
Targets = Annotated[list[Path], typer.Option("--target", help="what to test on; repeatable")]
Methods = Annotated[str, typer.Option(help="names, separated by commas")]
Seeds = Annotated[str, typer.Option(help="numbers, separated by commas")]
Shots = Annotated[int, typer.Option(min=1, help="training photos per class")]
LoraSteps = Annotated[
    int | None,
    typer.Option(min=1, help="CLIP-LoRA's steps per shot; unset: its paper's 500"),
]
Model = Annotated[str, typer.Option(help="bundled, or open_clip's name")]
Pretrained = Annotated[str | None, typer.Option(help="open_clip's tag or a file")]
Device = Annotated[str, typer.Option(help="cpu, cuda, …")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines")]
Plot = Annotated[Path | None, typer.Option(help="a PNG file to draw the results into")]
Ablation = Literal["losses", "sharing", "layers"]


@evaluate_app.command("base-to-novel")
def base_to_novel(
    data: Data,
    methods: Methods = _ALL,
    seeds: Seeds = "1,2,3",
    shots: Shots = 16,
    model: Model = "bundled",
    pretrained: Pretrained = None,
    device: Device = "cpu",
    lora_steps: LoraSteps = None,
    ablation: Annotated[
        Ablation | None,
        typer.Option(help="compare an ablation's rows instead: losses, sharing or layers"),
    ] = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="also judge both halves among all names at once")
    ] = False,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Trains on the first half of the classes, tests on both halves.

    Example: rmadapter evaluate base-to-novel --data caltech101.zip --plot novel.png
    """
    with errors():
        from training.protocols import base_to_novel
        from training.protocols.ablation import ablation_plan, method_plan
        from training.protocols.datasets import read_dataset

        clip = _clip(model, pretrained, device)
        plan = (
            ablation_plan(clip, ablation)
            if ablation
            else method_plan(clip, methods.split(","), lora_steps)
        )
        numbers = _numbers(seeds)
        with _bar(len(plan) * len(numbers)) as on_fit:
            results = base_to_novel(read_dataset(clip, data), plan, shots, numbers, on_fit, mixed)
        _show(results, as_json, plot, "both" if ablation == "losses" else "rmadapter")


@evaluate_app.command("few-shot")
def few_shot(
    data: Data,
    methods: Methods = _ALL,
    seeds: Seeds = "1,2,3",
    shots: Annotated[str, typer.Option(help="numbers, separated by commas")] = "1,2,4,8,16",
    model: Model = "bundled",
    pretrained: Pretrained = None,
    device: Device = "cpu",
    lora_steps: LoraSteps = None,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Trains and tests on all classes, at several numbers of photos per class.

    Example: rmadapter evaluate few-shot --data caltech101.zip --shots 1,4,16
    """
    with errors():
        from training.protocols import few_shot_accuracy
        from training.protocols.ablation import method_plan
        from training.protocols.datasets import read_dataset

        clip = _clip(model, pretrained, device)
        plan, numbers, curve = (
            method_plan(clip, methods.split(","), lora_steps),
            _numbers(seeds),
            _numbers(shots),
        )
        results: list[Result] = []
        with _bar(len(plan) * len(numbers) * len(curve)) as on_fit:
            source = read_dataset(clip, data)
            for count in curve:
                results += few_shot_accuracy(source, plan, count, numbers, on_fit)
        _show(results, as_json, plot)


@evaluate_app.command("cross-dataset")
def cross_dataset(
    data: Source,
    target: Targets,
    methods: Methods = _ALL,
    seeds: Seeds = "1,2,3",
    shots: Shots = 16,
    model: Model = "bundled",
    pretrained: Pretrained = None,
    device: Device = "cpu",
    lora_steps: LoraSteps = None,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Trains on one data set, tests on others among their own names.

    Example: rmadapter evaluate cross-dataset --data imagenet --target dtd --target eurosat
    """
    with errors():
        from training.protocols.ablation import method_plan

        clip = _clip(model, pretrained, device)
        plan = method_plan(clip, methods.split(","), lora_steps)
        results = _transfer(clip, data, target, plan, _numbers(seeds), shots, same=False)
        _show(results, as_json, plot)


@evaluate_app.command("domain-generalization")
def domain_generalization(
    data: Source,
    target: Targets,
    methods: Methods = _ALL,
    seeds: Seeds = "1,2,3",
    shots: Shots = 16,
    model: Model = "bundled",
    pretrained: Pretrained = None,
    device: Device = "cpu",
    lora_steps: LoraSteps = None,
    as_json: AsJson = False,
    plot: Plot = None,
) -> None:
    """Trains on one domain, tests on other domains with the same classes.

    Example: rmadapter evaluate domain-generalization --data photo.zip --target sketch.zip
    """
    with errors():
        from training.protocols.ablation import method_plan

        clip = _clip(model, pretrained, device)
        plan = method_plan(clip, methods.split(","), lora_steps)
        results = _transfer(clip, data, target, plan, _numbers(seeds), shots, same=True)
        _show(results, as_json, plot)


@evaluate_app.command()
def paper(
    data: Annotated[Path, typer.Option(help="the folder that holds CoOp's data sets")],
    output: Annotated[Path, typer.Option(help="a file with one JSON line per data set")] = Path(
        "paper.jsonl"
    ),
    methods: Methods = "rmadapter",
    seeds: Seeds = "1,2,3",
    shots: Shots = 16,
    model: Model = "ViT-B-16",
    pretrained: Pretrained = "openai",
    device: Device = "cpu",
    lora_steps: LoraSteps = None,
    as_json: AsJson = False,
) -> None:
    """Makes the paper's base-to-novel table, one row per data set; resumes where it stopped.

    Example: rmadapter evaluate paper --data DIR --model ViT-B-16 --pretrained openai
    """
    with errors():
        from training.protocols.ablation import method_plan
        from training.protocols.paper import append_row, data_set_folders, finished_rows, paper_row

        folders = data_set_folders(data)
        run: dict[str, Any] = {"model": model, "pretrained": pretrained}
        run |= {"methods": methods, "seeds": seeds, "shots": shots, "lora_steps": lora_steps}
        done = finished_rows(output, run)
        if len(done.keys() & set(folders)) < len(folders):
            clip = _clip(model, pretrained, device)
            plan = method_plan(clip, methods.split(","), lora_steps)
        for folder in folders:
            if folder not in done:
                numbers = _numbers(seeds)
                with _bar(len(plan) * len(numbers)) as on_fit:
                    row = paper_row(clip, data / folder, plan, numbers, shots, on_fit)
                append_row(output, folder, run, row)
                done[folder] = row
            if not as_json:
                _print_paper_row(folder, done[folder])
        if as_json:
            rows = [{"data_set": f} | result for f in folders for result in done[f]]
            print_json({"results": rows})


def _print_paper_row(folder: str, results: list[dict[str, Any]]) -> None:
    from training.protocols.published import DATA_SETS

    name, theirs = DATA_SETS[folder]
    for r in results:
        ours = f"{r['base']:.2%} / {r['novel']:.2%} / {r['hm']:.2%}"
        line = f"{name:<13} {r['method']:<14} {ours}"
        if r["method"] == "rmadapter":
            line += f"   paper: {theirs.base:.2f} / {theirs.novel:.2f} / {theirs.hm:.2f}"
        out.print(line, highlight=False, soft_wrap=True)


def _transfer(
    clip: "FrozenCLIP",
    data: Path,
    targets: list[Path],
    plan: "Plan",
    seeds: list[int],
    shots: int,
    same: bool,
) -> "list[Result]":
    from training.protocols import check_same_classes, transfer
    from training.protocols.datasets import read_dataset

    with _bar(len(plan) * len(seeds)) as on_fit:
        source = read_dataset(clip, data)
        others = {path.stem: read_dataset(clip, path) for path in targets}
        if same:
            check_same_classes(source, others)
        return transfer(source, others, plan, shots, seeds, on_fit)


def _clip(model: str, pretrained: str | None, device: str) -> "FrozenCLIP":
    keep_freed_memory()
    from adapters.clip import load_clip

    return load_clip(model, pretrained, device)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise RMAdapterError(f"{text!r} is not numbers separated by commas") from error


def _show(
    results: "list[Result]", as_json: bool, plot: Path | None, method: str = "rmadapter"
) -> None:
    from training.protocols import differences

    gaps = differences(results, method)
    if plot is not None:
        _draw(results, plot)
    if as_json:
        plain = {"results": [r.summary() for r in results]}
        print_json(plain | {"differences": [gap.to_dict() for gap in gaps]})
        return
    out.print(_table(results))
    for gap in gaps:
        interval = "" if gap.interval is None else _range(gap.interval, 100, " points")
        where = f" on {gap.target}" if gap.target else ""
        where += f", {gap.shots} photos" if len({r.shots for r in results}) > 1 else ""
        line = f"{gap.method} − {gap.peer}{where}: {100 * gap.mean:+.2f} {interval}"
        out.print(line, highlight=False)


def _table(results: "Sequence[Result]") -> Table:
    """The results as a table, without columns that are empty in this protocol."""
    columns = (
        "method",
        "shots",
        "target",
        "base",
        "novel",
        "hm",
        "mixed base",
        "mixed novel",
        "mixed hm",
        "seconds",
        "trainable parameters",
    )
    rows = [_row(result) for result in results]
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return table_of([columns[i] for i in used], ([row[i] for i in used] for row in rows))


def _row(r: "Result") -> tuple[Cell, ...]:
    return (
        r.method,
        str(r.shots),
        r.target or "",
        f"{r.base:.2%} {_range(r.base_ci)}",
        "" if r.novel is None or r.novel_ci is None else f"{r.novel:.2%} {_range(r.novel_ci)}",
        "" if r.hm is None else Text(f"{r.hm:.2%}", "bold"),
        *(("",) * 3 if r.mixed is None else _mixed_cells(r.mixed)),
        f"{r.seconds:.1f}",
        f"{r.parameters:,}",
    )


def _mixed_cells(mixed: "Mixed") -> tuple[Cell, ...]:
    return f"{mixed.base:.2%}", f"{mixed.novel:.2%}", Text(f"{mixed.hm:.2%}", "bold")


def _range(interval: tuple[float, float], times: float = 100, unit: str = "") -> str:
    return f"({interval[0] * times:.1f}…{interval[1] * times:.1f}{unit})"


def _draw(results: "Sequence[Result]", file: Path) -> None:
    try:
        from training.protocols.plots import draw
    except ImportError as error:
        raise RMAdapterError("--plot needs matplotlib: pip install 'rmadapter[plot]'") from error
    draw(results, file)


@contextmanager
def _bar(total: int) -> "Iterator[OnFit]":
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err) as bar:
        task = bar.add_task("reading pictures", total=total)

        def on_fit(label: str, seed: int) -> None:
            bar.update(task, advance=1, description=f"{label}, seed {seed}")

        yield on_fit
