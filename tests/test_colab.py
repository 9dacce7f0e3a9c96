"The first cell of the copies for Colab: what it runs where nothing is there, and where all is."

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / 'nbs'))

from _colab import for_colab, link  # noqa: E402

ADDRESS = 'https://github.com/someone/book'
RUN = """import os, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell(sys.argv[1]).raise_error()
shell.run_cell(sys.argv[1]).raise_error()
print('at', os.getcwd())"""


def source(cell):
    return ''.join(cell['source'])


def run(tmp_path, folder):
    "Where the cell, run twice, leaves a kernel that begins in the folder; what git and pip heard."
    cell = source(for_colab(dict(cells=[]), ADDRESS)['cells'][0])
    for name in 'git', 'pip':
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/heard"\n')
        (tmp_path / name).chmod(0o755)
    with (tmp_path / 'git').open('a') as file:
        file.write('mkdir -p "$6/nbs" && touch "$6/nbs/lesson.py"\n')
    env = os.environ | dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', IPYTHONDIR=str(tmp_path))
    command = [sys.executable, '-c', RUN, cell]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    heard = tmp_path / 'heard'
    return done.stdout.split('at ')[-1].strip(), heard.read_text() if heard.exists() else ''


def test_elsewhere_it_fetches_and_installs_once(tmp_path):
    where, heard = run(tmp_path, tmp_path)
    assert where == str(tmp_path / 'eosvos_book/nbs')
    clone, install = heard.splitlines()
    assert clone == f'git clone -q --depth 1 {ADDRESS} eosvos_book'
    assert install == 'pip install -q ./eosvos_book'


def test_in_the_project_it_does_nothing(tmp_path):
    assert run(tmp_path, ROOT / 'nbs') == (str(ROOT / 'nbs'), '')


def test_a_copy_has_every_cell_but_those_that_need_data():
    page = json.loads((ROOT / 'nbs/11_metrics.ipynb').read_text())
    first, *cells = for_colab(page, ADDRESS)['cells']
    assert ADDRESS in source(first)
    data = [cell for cell in page['cells'] if '#| data\n' in source(cell)]
    assert data and len(cells) == len(page['cells']) - len(data)
    assert not any(cell.get('outputs') for cell in cells)
    assert any(cell.get('outputs') for cell in page['cells']), 'the page itself is unchanged'


def test_a_page_links_to_its_copy():
    url = 'https://colab.research.google.com/github/someone/book/blob/main/docs/colab/00_method.ipynb'
    assert url in link('00_method.ipynb', ADDRESS)['source']
