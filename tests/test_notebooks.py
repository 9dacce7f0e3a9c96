"Every notebook runs from top to bottom, each in a process of its own, as `nbdev-test` runs it."

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / 'nbs').glob('*.ipynb') if p.name[0] not in '_.')
SECONDS = 600  # a notebook should take less than 60; a busy machine needs more
RUN = '''import sys
from nbdev.test import test_nb
notebook, root, *skipped = sys.argv[1:]
sys.exit(not test_nb(notebook, skip_flags=skipped, basepath=root)[0])'''


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_notebook(notebook):
    skipped = (
        ['slow'] if os.environ.get('EOSVOS_DATA') else ['slow', 'data']
    )  # cells so marked keep their stored output
    command = [sys.executable, '-c', RUN, str(notebook), str(ROOT), *skipped]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
