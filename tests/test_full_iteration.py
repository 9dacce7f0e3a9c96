"The benchmark of an iteration runs at a small size; ours and torchvision's agree."

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_small_iteration_equals_torchvisions():
    command = [sys.executable, 'benchmarks/full_iteration.py', '--size', 'small', '--pairs', '1']
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]  # it asserts that counts and losses are equal
    assert "RoIs of ours {'box': 64, 'mask': 16}, of the peer {'box': 64, 'mask': 16}" in run.stdout
    assert re.search(r'^ratio small-iteration \d+\.\d{3}$', run.stdout, re.M)
