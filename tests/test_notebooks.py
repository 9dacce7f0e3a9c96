"Every notebook runs from top to bottom, each in a process of its own, as `nbdev-test` runs it."

import os
import sys
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path

import pytest
from nbdev.test import test_nb as run_notebook

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / 'nbs').glob('*.ipynb') if p.name[0] not in '_.')
SECONDS = 600  # a notebook should take less than 60; a busy machine needs more
# A server that has imported what they all import, and has done nothing else, forks a process for
# each. On Windows there is none.
FRESH = get_context('forkserver' if hasattr(os, 'fork') else 'spawn')
if hasattr(os, 'fork'):
    FRESH.set_forkserver_preload(['torchvision', 'matplotlib.pyplot', 'nbdev.test'])


def run(notebook, skipped, log, usual):
    "Run a notebook in this process, which ends with 1 where a cell fails; what it says is logged."
    set_start_method(usual, force=True)  # for processes that the notebook starts
    with open(log, 'w') as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        right, _ = run_notebook(notebook, skip_flags=skipped, basepath=ROOT)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(not right)


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_notebook(notebook, tmp_path):
    # cells so marked keep their stored output
    skipped = ['slow'] if os.environ.get('EOSVOS_DATA') else ['slow', 'data']
    log = tmp_path / 'log'
    arguments = notebook, skipped, log, get_start_method()
    process = FRESH.Process(target=run, args=arguments)
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == 0, log.read_text()[-8000:]
