"The commands of the page on paper scale, run with the full-size model on tiny pictures."

import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from command import invoke
from PIL import Image
from test_weights import authors

from eosvos.core import DEMO
from eosvos.small import PAPER, build
from eosvos.weights import save_weights

ROOT = Path(__file__).resolve().parent.parent
PAGE = json.loads((ROOT / 'nbs/19_scale.ipynb').read_text())
SIZE = 112, 64
DOWNLOADS = 'get_data.py davis', 'weights coco'  # what they bring is made here


def commands():
    "All lines of the page that a shell would run."
    text = '\n'.join(''.join(c['source']) for c in PAGE['cells'] if c['cell_type'] == 'markdown')
    blocks = re.findall(r'^```sh\n(.*?)^```', text, re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def shorter(command):
    "The same command with fewer processes, steps and sequences."
    command = command.replace('--nproc-per-node 4', '--nproc-per-node 2')
    command = re.sub(r'e-osvos-\d+', 'e-osvos-1', command)
    if 'split data' in command:
        command += ' --count 1'
    if ' paper ' in command:
        command += ' --steps 1 --batch 2 --tasks.steps 1 --workers 0 --device cpu'
    if ' paper-parent ' in command:
        command += ' --steps 1 --batch 2 --size 64 112 --workers 0 --device cpu'
    if ' benchmark ' in command:
        command += ' --device cpu'
    return command


def write_frames(folder, name, kind, count=3):
    "Some frames of the demo clip, or their masks."
    theirs, how = ('frames', Image.BILINEAR), ('masks', Image.NEAREST)
    files, way = theirs if kind == 'JPEGImages' else how
    (folder / name).mkdir(parents=True)
    for file in sorted((DEMO / files).iterdir())[:count]:
        Image.open(file).resize(SIZE, way).save(folder / name / file.name)


def write_davis(root, resolution, lists):
    "A tree as the archives of DAVIS unpack; lists: folder of a list to its splits."
    names = {name for splits in lists.values() for found in splits.values() for name in found}
    for kind in 'JPEGImages', 'Annotations':
        for name in names:
            write_frames(root / kind / resolution, name, kind)
    for place, splits in lists.items():
        (root / 'ImageSets' / place).mkdir(parents=True)
        for split, found in splits.items():
            (root / f'ImageSets/{place}/{split}.txt').write_text('\n'.join(found) + '\n')


def write_youtube(archive, split, names, work):
    "An archive of YouTube-VOS."
    frames = [f'{i:05d}' for i in range(3)]
    entry = dict(category='cup', frames=frames)
    meta = dict(videos={name: dict(objects={'1': entry}) for name in names})
    for kind in 'JPEGImages', 'Annotations':
        for name in names:
            write_frames(work / split / kind, name, kind)
    (work / split / 'meta.json').write_text(json.dumps(meta))
    with zipfile.ZipFile(archive, 'w') as file:
        for path in sorted((work / split).rglob('*.*')):
            file.write(path, path.relative_to(work))


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    "A folder with what the downloads would bring."
    folder = tmp_path_factory.mktemp('scale')
    (folder / 'data_scripts').symlink_to(ROOT / 'data_scripts')
    sets = dict(train=['bear'], val=['blackswan'])
    write_davis(folder / 'data/DAVIS', '480p', {'480p': sets})
    write_davis(folder / 'data/DAVIS-2017', '480p', {'2017': sets})
    write_youtube(folder / 'train.zip', 'train', ['one', 'two', 'three'], folder / 'made')
    write_youtube(folder / 'valid.zip', 'valid', ['four'], folder / 'made')
    torch.manual_seed(0)
    config = replace(
        PAPER,
        image=replace(PAPER.image, min_side=64, max_side=112),
        roi=replace(PAPER.roi, samples=16),
        rpn=replace(PAPER.rpn, before_nms=(200, 100), after_nms=(100, 50)),
    )
    save_weights(build(config), config, folder / 'coco.safetensors', half=False)
    torch.save(dict(meta_optim_state_dict=authors()), folder / 'best_val_meta_iter.model')
    return folder


def run(command, here):
    """The exit status of a command, and what it says.

    All but `torchrun` runs in this process, which has torch imported."""
    if command.startswith('torchrun'):
        places = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
        environment = {**os.environ, 'PATH': places, 'OMP_NUM_THREADS': '1'}
        bash = ['bash', '-c', f'{command} 2>&1']
        piped = dict(stdout=subprocess.PIPE, text=True, timeout=600)
        done = subprocess.run(bash, cwd=here, env=environment, **piped)
        return done.returncode, done.stdout
    words = ['bash', '-c', f"printf '%s\\n' {command}"]  # bash reads $(cat FILE)
    name, *words = subprocess.check_output(words, cwd=here, text=True).splitlines()
    if name == 'eosvos':
        done = invoke(words)
        return done.exit_code, done.output
    assert name == 'python'
    said = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, 'argv', words)
        try:
            runpy.run_path(words[0], run_name='__main__')
        except SystemExit as stopped:
            if isinstance(stopped.code, str):
                return 1, said.getvalue() + stopped.code
            return stopped.code or 0, said.getvalue()
    return 0, said.getvalue()


def test_every_command_of_the_page_runs(here, monkeypatch):
    monkeypatch.chdir(here)
    together = 0  # how many ran as two processes
    for command in commands():
        if any(download in command for download in DOWNLOADS):
            continue
        if command.startswith('torchrun') and together:  # the others say so in the same words
            command = 'eosvos ' + re.split(r'eosvos[. ]', command, maxsplit=1)[1]
        together += command.startswith('torchrun')
        code, said = run(shorter(command), here)
        # that most of the sequences are missing is found out
        known = code == 1 and re.search(r'expected \d+ .*sequences', said)
        assert known or code == 0, (command, said[-4000:])
    assert together == 1
    for made in 'parent', 'one', 'paper', '2017', '2016':
        assert (here / 'runs' / made / 'log.csv').read_text().count('\n') == 2
    for made in 'handcrafted', 'davis-2016', 'davis-2017', 'youtube-vos':
        assert (here / 'runs' / made / 'result.json').exists()
    with zipfile.ZipFile(here / 'youtube-vos.zip') as archive:
        assert len(archive.namelist()) >= 3


def test_the_page_says_what_it_downloads():
    said = [command for command in commands() if any(d in command for d in DOWNLOADS)]
    assert len(said) == 3 and len(commands()) > 12
