"""Commands run as their users run them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def run_module(folder: Path, *command: str) -> str:
    """What `python -m COMMAND` prints, run in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def resident_mb(pid: int) -> float:
    """A process's memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
