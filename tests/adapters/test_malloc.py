"""Memory that is freed is kept by the process, and serves whichever thread asks next."""

import subprocess
import sys

import pytest

# A tier of 64 MB whose entries are replaced, one by one, by those of another thread each time.
REPLACED_BY_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from adapters.malloc import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def load():
    for i in range(32):
        tier[i] = np.ones(1 << 21, np.uint8)

keep_freed_memory()
tier, threads = {}, [ThreadPoolExecutor(1) for _ in range(4)]
before = resident()
for thread in threads:
    thread.submit(load).result()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's arenas")
def test_what_one_thread_frees_another_ones_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLACED_BY_THREADS], capture_output=True, text=True, check=True
    )
    assert 64 < float(done.stdout) < 1.5 * 64
