"""How the bundled CLIP is made: what of it runs in seconds and without its teachers' packages."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.paths import ROOT
from tests.support.photos import photo_folder
from tests.support.processes import run_module
from training.pretrain import measure, trainer
from training.pretrain.trainer import Group, Trainer

STEPS = 6


class CutOffError(Exception):
    pass


def train(path: Path, cut_off_at: int | None = None) -> dict[str, torch.Tensor]:
    """The averaged weights of a small model, whose loss draws from the step's generator."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    run = Trainer(model, [Group(list(model.parameters()), 0.1, 0.01)], STEPS, path, keep=0.9)

    def loss(generator: torch.Generator) -> torch.Tensor:
        if run.step == cut_off_at:
            raise CutOffError
        return model(torch.randn(8, 4, generator=generator)).square().mean()

    run.run(loss, lambda average: "", seed=1, every=STEPS)
    return run.average.state_dict()


def test_a_training_that_was_cut_off_goes_on_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    whole = train(tmp_path / "whole.pt")
    with pytest.raises(CutOffError):
        train(tmp_path / "cut.pt", cut_off_at=4)
    resumed = train(tmp_path / "cut.pt")
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, rtol=0, atol=0)


def test_the_carried_files_can_be_measured_by_the_command_that_made_them(tmp_path: Path) -> None:
    """On few photos; the figures of WEIGHTS.md are those of whole data sets."""
    photos = photo_folder(tmp_path / "photos", ("crab", "cup", "lotus", "wild_cat"), 17)
    for name in ("caltech101", *(f"pacs_{domain}" for domain in measure.DOMAINS)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            files = sorted(photos.rglob("*.jpg"))
            for file in files if name == "caltech101" else files[::9]:
                archive.write(file, f"{file.parent.name}/{file.name}")
    for file in (ROOT / "adapters" / "bundled").glob("clip-bundled.*"):
        shutil.copy(file, tmp_path)
    places = ["--data", str(tmp_path), "--out", str(tmp_path)]
    run_module(tmp_path, "training.pretrain", *places, "--stages", "measure")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures) == 4 + len(measure.DOMAINS)
    assert all(0 <= figure <= 1 for figure in figures.values())
    assert figures["caltech101, 100 names"] > 0.5  # of four names here
