"""Where the tests' files are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"  # real data sets, beside the checkout; some tests skip
