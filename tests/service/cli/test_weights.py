"""`rmadapter weights`: what Compose's job runs before servers and workers start."""

import pytest
from huggingface_hub.constants import HF_HUB_CACHE


def test_weights_names_the_model_and_where_its_weights_lie(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMADAPTER_MODEL", "bundled")
    done = run("weights")
    assert done.exit_code == 0, done.output
    assert "bundled" in done.stdout
    assert HF_HUB_CACHE in done.stdout


def test_weights_fails_for_a_model_that_is_not_there(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMADAPTER_MODEL", "no-such")
    assert run("weights").exit_code == 1
