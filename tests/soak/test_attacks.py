"""The attacks do what they say, and a short one is survived by who is not the attacker."""

import io

import pytest
from PIL import Image

from tests.soak.attacks import attack, flat_png, slow_jpeg, table
from tests.support.paths import ROOT


def test_another_tenant_is_answered_while_one_sends_wrong_json() -> None:
    row = attack("4 MB of wrong JSON items, 2 at a time", ROOT, 2.0)
    assert row["classify failed"] == 0
    assert "| JSON |" in table({"JSON": {"now": row}})


@pytest.mark.parametrize("data", [flat_png(2000), slow_jpeg()], ids=["flat", "slow"])
def test_hostile_pictures_are_small_files_and_large_pictures(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        assert image.width * image.height > 3 * len(data)
