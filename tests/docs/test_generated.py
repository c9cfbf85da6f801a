"""The pages that are made of the code are what the code says."""

from collections.abc import Callable

import pytest

from service.cli.reference import command_line, settings
from service.settings import Settings
from tests.support.paths import ROOT


@pytest.mark.parametrize(("page", "made"), [("command-line", command_line), ("settings", settings)])
def test_a_page_made_of_the_code_is_not_out_of_date(page: str, made: Callable[[], str]) -> None:
    same = (ROOT / "docs" / f"{page}.md").read_text() == made()
    assert same, "make it anew: python -m service.cli.reference docs"


def test_every_setting_and_every_command_is_in_its_page() -> None:
    assert all(f"`RMADAPTER_{name.upper()}`" in settings() for name in Settings.model_fields)
    for command in ("up", "fit", "keys create", "import custom-vision", "evaluate paper"):
        assert f"## rmadapter {command}\n" in command_line()


def test_no_hidden_option_and_no_folder_of_this_machine_is_told() -> None:
    assert "--parent" not in command_line()
    assert "`~/.rmadapter`" in settings()
