"""The paper's base-to-novel table, a row per data set, resumed where an earlier run stopped."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.clip import FrozenCLIP
from adapters.errors import RMAdapterError
from training.protocols import OnFit, Plan, base_to_novel
from training.protocols.datasets import read_dataset
from training.protocols.published import DATA_SETS

Row = list[dict[str, Any]]  # a data set's results, one per method


def data_set_folders(root: Path) -> list[str]:
    """The folders in `root` that hold the paper's data sets.

    Raises:
        RMAdapterError: there are none.
    """
    folders = [name for name in DATA_SETS if (root / name).is_dir()]
    if not folders:
        raise RMAdapterError(f"{root} has none of {', '.join(DATA_SETS)}")
    return folders


def paper_row(
    clip: FrozenCLIP, folder: Path, plan: Plan, seeds: Sequence[int], shots: int, on_fit: OnFit
) -> Row:
    """Runs base-to-novel on one data set."""
    results = base_to_novel(read_dataset(clip, folder), plan, shots, seeds, on_fit)
    return [result.summary() for result in results]


def append_row(output: Path, folder: str, run: dict[str, Any], row: Row) -> None:
    """Adds a finished data set to the file, as one JSON line."""
    with output.open("a") as file:
        file.write(json.dumps({"data_set": folder, "run": run, "results": row}) + "\n")


def finished_rows(output: Path, run: dict[str, Any]) -> dict[str, Row]:
    """The rows that the same run wrote before it stopped; an incomplete line is skipped."""
    done: dict[str, Row] = {}
    for line in output.read_text().splitlines() if output.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["run"] == run:
            done[row["data_set"]] = row["results"]
    return done
