"Whole benchmarks: killed and restarted, shared by processes, refused when mixed, packed, checked."

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from command import invoke
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_follow import QUICK, Scripted, tracker

from eosvos import benchmark
from eosvos.benchmark import (
    _describe,
    _prepare_folder,
    find_sequences,
    read_json,
    run_benchmark,
    submit,
)
from eosvos.core import DEMO
from eosvos.follow import PAPER_SEGMENT, SMALL_SEGMENT, jitter, load, variant
from eosvos.small import PAPER, build
from eosvos.video import read_mask, write_mask
from eosvos.weights import load_model, save_weights

sys.path.append(str(Path(__file__).parent.parent / 'nbs'))
from lesson import as_markdown, percent  # noqa: E402

COMMAND = [sys.executable, '-c', 'from eosvos.cli import app; app()']
ALONE = {
    key: value
    for key, value in os.environ.items()
    if key not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
}


def make_davis(
    root,
    clips=(('cup', 0, 4), ('cat', 20, 3), ('end', 34, 3)),
    split='tiny',
    year='2017',
    size=(96, 54),
):
    "A data set in the layout of DAVIS; `clips` are names, first frames and lengths."

    def shrunk(path):
        with Image.open(path) as picture:
            return picture.resize(size, Image.Resampling.NEAREST)

    for name, first, count in clips:
        for kind, source, suffix in (
            ('JPEGImages', 'frames', 'jpg'),
            ('Annotations', 'masks', 'png'),
        ):
            folder = root / kind / '480p' / name
            folder.mkdir(parents=True)
            for i in range(count):
                shrunk(DEMO / source / f'{first + i:05d}.{suffix}').save(
                    folder / f'{i:05d}.{suffix}'
                )
    (root / 'ImageSets' / year).mkdir(parents=True)
    (root / 'ImageSets' / year / f'{split}.txt').write_text(
        ''.join(f'{name}\n' for name, _, _ in clips)
    )
    return root


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_davis(tmp_path_factory.mktemp('data') / 'DAVIS')


@pytest.fixture
def sequences(root):
    return find_sequences(root, 'davis-2017', 'tiny')


ABOUT = dict(dataset='davis-2017', split='tiny', variant='e-osvos-0', model='small')


def setup(sequences, config=QUICK, **more):
    return _describe(sequences, tracker(config), ABOUT | more)


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def masks(out):
    return files(out / 'masks')


def eosvos(*words):
    return invoke(words)


def refused(*words):
    done = eosvos(*words)
    assert (
        done.exit_code == 1
        and isinstance(done.exception, SystemExit)
        and 'Traceback' not in done.output
    ), (done.output, done.exception)
    return done.stderr.strip().splitlines()[-1]


# ---- what is run


@pytest.mark.parametrize(
    'name, steps, online',
    [('e-osvos-0', 0, False), ('e-osvos-10', 10, False), ('e-osvos-100-ona', 100, True)],
)
def test_variants(name, steps, online):
    config = variant(name, PAPER_SEGMENT)
    assert (config.fine_tune.iterations, config.online) == (steps, online)
    assert replace(config, online=False, fine_tune=PAPER_SEGMENT.fine_tune) == PAPER_SEGMENT, (
        'nothing else changes'
    )


@pytest.mark.parametrize(
    'name',
    [
        'e-osvos',
        'e-osvos-',
        'e-osvos-1.5',
        'e-osvos--1',
        'E-OSVOS-10',
        'e-osvos-10-OnA',
        'e-osvos-10-ona-',
        'e-osvos-10\n',
        '',
    ],
)
def test_other_variants_are_refused(name):
    with pytest.raises(ValueError, match='variant: expected e-osvos-T'):
        variant(name, PAPER_SEGMENT)


def test_what_belongs_together(tmp_path):
    "The small model follows by its own preset, with its learned rates; another by the paper's."
    with torch.device('meta'):
        full = build(replace(PAPER, channels=8))
    state = full.to_empty(device='cpu')
    for p in state.parameters():
        torch.nn.init.zeros_(p)
    for b in state.buffers():
        torch.nn.init.zeros_(b)
    save_weights(state, replace(PAPER, channels=8), tmp_path / 'full.safetensors')
    assert load('small', 'cpu').config == SMALL_SEGMENT == load('parent', 'cpu').config
    paper = load(tmp_path / 'full.safetensors', 'cpu')
    assert paper.config == PAPER_SEGMENT and paper.rates == 1e-3


def test_unknown_data_sets(root):
    with pytest.raises(ValueError, match="dataset: expected one of .*, got 'davis'"):
        find_sequences(root, 'davis', 'tiny')


def test_learned_rates(tmp_path):
    model, config = load_model('small')
    rates = {
        name: torch.full((len(p), *[1] * (p.dim() - 1)), 0.25)
        for name, p in model.named_parameters()
    }
    save_weights(model, config, tmp_path / 'learned.safetensors', rates=rates)
    file = str(tmp_path / 'learned.safetensors')
    assert load('parent').rates == 1e-3 and load('small').rates.keys() == rates.keys()
    learned = load(file).rates
    assert learned.keys() == rates.keys()
    assert all(torch.equal(learned[name], rates[name]) for name in rates)
    name = next(iter(rates))
    save_weights(model, config, tmp_path / 'odd.safetensors', rates={name: rates[name]})
    with pytest.raises(
        ValueError, match='odd.safetensors: expected a learning rate for each parameter'
    ):
        load(str(tmp_path / 'odd.safetensors'))


def test_rates_and_switches_belong_to_the_setup(sequences, tmp_path):
    _prepare_folder(tmp_path / 'out', setup(sequences))
    for key, other in {
        'config.extra_boxes': setup(sequences, replace(QUICK, extra_boxes=0)),
        'config.seed': setup(sequences, replace(QUICK, seed=2)),
        'variant': setup(sequences, variant='e-osvos-1'),
        'sequences': setup(sequences[:2]),
    }.items():
        with pytest.raises(ValueError, match=f'out: holds results with {key} '):
            _prepare_folder(tmp_path / 'out', other)
    other = _describe(sequences, tracker(rates=0.25), ABOUT)
    with pytest.raises(ValueError, match='holds results with rates 0.001, not 0.25'):
        _prepare_folder(tmp_path / 'out', other)


def test_other_folders_are_refused(sequences, tmp_path):
    for name in 'thesis.tex', '.notes':  # a hidden file may be somebody's, too
        (tmp_path / name).touch()
        with pytest.raises(
            ValueError, match=f'expected an empty folder or results of this benchmark, got {name}'
        ):
            _prepare_folder(tmp_path, setup(sequences))
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
    (tmp_path / '.setup.0a1b2c3d.json').touch()  # left by a process that was killed
    _prepare_folder(tmp_path, setup(sequences))
    assert (tmp_path / 'setup.json').is_file()
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(NotADirectoryError, match='thesis.tex'):
        _prepare_folder(tmp_path / 'thesis.tex/out', setup(sequences))
    for text in ('[]', '{', '"x"', '[' * 10000):
        (tmp_path / 'odd').mkdir(exist_ok=True)
        (tmp_path / 'odd/setup.json').write_text(text)
        with pytest.raises(ValueError, match='setup.json'):
            _prepare_folder(tmp_path / 'odd', setup(sequences))


# ---- killed and restarted, shared


def command(root, out, *more):
    return [
        'benchmark',
        root,
        '--dataset',
        'davis-2017',
        '--split',
        'tiny',
        '--variant',
        'e-osvos-2',
        '--out',
        out,
        *more,
    ]


def words(*values):
    return [str(value) for value in values]


@pytest.fixture(scope='module')
def whole(root, tmp_path_factory):
    "The folder of a run that nothing disturbed."
    out = tmp_path_factory.mktemp('whole') / 'out'
    done = eosvos(*command(root, out))
    assert done.exit_code == 0, (done.output, done.exception)
    assert 'J ' in done.stdout and '0 of 3 left' in done.stderr
    return out


def same(a, b):
    "Do two finished runs have the same masks, tables, scores and setup?"
    tables = 'global_results.csv', 'per-sequence_results.csv', 'setup.json'
    assert masks(a) == masks(b) and len(masks(a)) == 10
    for name in tables:
        assert (a / name).read_bytes() == (b / name).read_bytes()
    one, two = (json.loads((folder / 'result.json').read_text()) for folder in (a, b))
    for key in ('setup', 'scores', 'objects', 'frames', 'object_frames'):
        assert one[key] == two[key]


def test_a_killed_run_goes_on(root, whole, tmp_path):
    "kill -9 while the second sequence is being written."
    out = tmp_path / 'out'
    process = subprocess.Popen(
        words(*COMMAND, *command(root, out)),
        env=ALONE,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        until = monotonic() + 400  # a busy machine
        while not (
            len(list(out.glob('done/*.json'))) == 1 and list(out.glob('masks/.*.part/*.png'))
        ):
            assert process.poll() is None and monotonic() < until
            sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(out.glob('done/*.json'))) < 3 and not (out / 'result.json').exists(), (
        'killed in the middle'
    )
    first = {
        name: (out / 'masks' / name).stat().st_mtime_ns
        for name in masks(out)
        if not name.startswith('.')
    }
    assert first
    assert 'config.seed' in refused(*command(root, out, '--seed', 7)), (
        'a run of another configuration does not go on here'
    )
    done = eosvos(*command(root, out))
    assert done.exit_code == 0, (done.output, done.exception)
    same(out, whole)
    assert all((out / 'masks' / name).stat().st_mtime_ns == time for name, time in first.items()), (
        'what was done is not done again'
    )


def test_two_processes_share_the_work(root, whole, tmp_path):
    torchrun = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node',
        2,
        '--no-python',
    ]
    done = subprocess.run(
        words(*torchrun, *COMMAND, *command(root, tmp_path / 'out')),
        env=ALONE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('J&F') == 1, 'one of them tells the result'
    same(tmp_path / 'out', whole)
    assert json.loads((tmp_path / 'out/result.json').read_text())['processes'] == 2


def test_a_note_without_masks_does_not_count(sequences, tmp_path):
    "Masks that someone removed after they were noted are missed when they are scored."
    run_benchmark(sequences, tmp_path / 'out', tracker(), ABOUT)
    shutil.rmtree(tmp_path / 'out/masks/cat')
    with pytest.raises(ValueError, match='cat'):
        run_benchmark(sequences, tmp_path / 'out', tracker(), ABOUT)


def test_a_broken_frame_costs_one_sequence(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / 'DAVIS')
    (copy / 'JPEGImages/480p/end/00001.jpg').write_bytes(b'no picture')
    sequences, out = find_sequences(copy, 'davis-2017', 'tiny'), tmp_path / 'out'
    with pytest.raises(ValueError, match='end/00001.jpg'):
        run_benchmark(sequences, out, tracker(), ABOUT)
    assert (
        sorted(path.stem for path in out.glob('done/*')) == ['cat', 'cup']
        and not (out / 'masks/end').exists()
    )
    shutil.copy(root / 'JPEGImages/480p/end/00001.jpg', copy / 'JPEGImages/480p/end')
    run_benchmark(sequences, out, tracker(), ABOUT)
    assert sorted(path.name for path in (out / 'masks').iterdir()) == ['cat', 'cup', 'end']


def test_memory_is_flat_over_sequences(tmp_path):
    root = make_davis(tmp_path / 'DAVIS', [(f's{k}', k, 3) for k in range(8)])
    sequences, counts, model = find_sequences(root, 'davis-2017', 'tiny'), [], Scripted()

    def count(text):
        model.boxes.clear()
        gc.collect()
        counts.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))

    run_benchmark(sequences, tmp_path / 'out', tracker(model=model), ABOUT, say=count)
    assert len(counts) == 8 and max(counts) <= counts[1] + 5


def test_frames_are_counted_once_and_for_each_object(tmp_path):
    root = make_davis(tmp_path / 'DAVIS', [('two', 0, 4)])
    for file in (root / 'Annotations/480p/two').iterdir():
        ids = read_mask(file)
        ids[:5, :5] = 4
        write_mask(file, ids)
    sequences = find_sequences(root, 'davis-2017', 'tiny')
    result = run_benchmark(sequences, tmp_path / 'out', tracker(), ABOUT)
    assert result == read_json(tmp_path / 'out/result.json')
    assert (result['frames'], result['object_frames']) == (4, 8) and result[
        'fps_objects'
    ] == 2 * result['fps'] > 0
    assert list(result['objects']) == ['two_1', 'two_4']


def test_davis_2016_merges_objects(tmp_path):
    "With the masks of 2017 on disk, all objects are followed and scored as one."
    root = make_davis(tmp_path / 'DAVIS', [('one', 0, 3)], year='2016')
    for file in (root / 'Annotations/480p/one').iterdir():
        ids = read_mask(file)
        write_mask(
            file,
            ids * (1 + (torch.arange(ids.shape[1]) > ids.nonzero()[:, 1].float().mean()).long()),
        )
    assert read_mask(file).max() == 2
    sequences = find_sequences(root, 'davis-2016', 'tiny')
    about = ABOUT | dict(dataset='davis-2016')
    _prepare_folder(tmp_path / 'out', setup(sequences, **about))
    (tmp_path / 'out/masks/one').mkdir()
    for i, frame in enumerate(sequences[0].frames):
        write_mask(tmp_path / f'out/masks/one/{frame.stem}.png', sequences[0].mask(i))
    (tmp_path / 'out/done/one.json').write_text('{"frames": 3, "object_frames": 3, "seconds": 1}')
    assert run_benchmark(sequences, tmp_path / 'out', tracker(), about)['scores']['J&F-Mean'] == 1


# ---- submissions


def predicted(sequences, out):
    "True masks as predictions."
    for s in sequences:
        (out / s.name).mkdir(parents=True)
        for i, frame in enumerate(s.frames):
            write_mask(out / s.name / f'{frame.stem}.png', s.mask(i))
    return out


def test_the_archive_of_davis(sequences, tmp_path):
    masks = predicted(sequences, tmp_path / 'masks')
    assert (
        submit(masks, sequences, tmp_path / 'a.zip')
        == 10
        == submit(masks, sequences, tmp_path / 'b.zip')
    )
    with ZipFile(tmp_path / 'a.zip') as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files(masks)
        assert 'cup/00000.png' in archive.namelist(), 'folders of sequences stand at the top'
    assert (tmp_path / 'a.zip').read_bytes() == (tmp_path / 'b.zip').read_bytes()


@pytest.mark.parametrize(
    'wrong, said',
    [
        (lambda file: file.unlink(), '00001.png: cannot be read as a picture: No such file'),
        (lambda file: file.write_bytes(b''), '00001.png: cannot be read'),
        (
            lambda file: Image.fromarray(np.ones((54, 96), np.uint8)).save(file),
            r'00001.png: expected PNG with a palette \(mode P\), got PNG L',
        ),
        (
            lambda file: write_mask(file, torch.ones(54, 95, dtype=torch.int64)),
            r'00001.png: expected 96x54 pixels .* as its frame has, got 95x54',
        ),
        (
            lambda file: write_mask(file, torch.full((54, 96), 2)),
            r'00001.png: expected ids among \[0, 1\], got 2',
        ),
        (
            lambda file: write_mask(file, torch.full((54, 96), 255)),
            r'00001.png: expected ids among \[0, 1\], got 255',
        ),
        (
            lambda file: Image.new('RGB', (96, 54)).save(file),
            '00001.png: expected a mask with one channel',
        ),
    ],
)
def test_what_the_server_would_refuse(sequences, tmp_path, wrong, said):
    masks = predicted(sequences, tmp_path / 'masks')
    wrong(masks / 'cat/00001.png')
    with pytest.raises(ValueError, match=said):
        submit(masks, sequences, tmp_path / 'a.zip')
    assert [path.name for path in tmp_path.iterdir()] == ['masks'], (
        'no archive, and no piece of one'
    )


def make_youtube(root, shown, asked=(0, 1, 2, 3, 4, 5)):
    "Six frames of bright squares, as in a test split; `shown`: object -> where it appears."
    clip, labels = root / 'valid/JPEGImages/v', root / 'valid/Annotations/v'
    clip.mkdir(parents=True)
    labels.mkdir(parents=True)
    truth = []
    for i in range(6):
        image, ids = np.full((24, 40, 3), 20, np.uint8), torch.zeros(24, 40, dtype=torch.int64)
        for k, first in shown.items():
            if i < first:
                continue
            place = slice(2 + 12 * (k % 2), 8 + 12 * (k % 2)), slice(2 + 3 * i, 8 + 3 * i)
            image[place], ids[place] = 220, k
        Image.fromarray(image).save(clip / f'{5 * i:05d}.jpg', quality=100)
        starting = [k for k, first in shown.items() if first == i]
        if starting:
            write_mask(
                labels / f'{5 * i:05d}.png',
                torch.where(torch.isin(ids, torch.tensor(starting)), ids, 0),
            )
        truth.append(ids)
    objects = {
        str(k): {'category': 'square', 'frames': [f'{5 * i:05d}' for i in asked if i >= first]}
        for k, first in shown.items()
    }
    (root / 'valid/meta.json').write_text(json.dumps({'videos': {'v': {'objects': objects}}}))
    return truth


@pytest.mark.parametrize('shown', [{1: 0, 2: 3}, {1: 2, 2: 4}, {3: 2}, {5: 5}, {1: 2, 2: 2}])
def test_objects_that_appear_later(tmp_path, shown, monkeypatch):
    "Nothing before its first frame, the given mask on it, followed after."
    truth = make_youtube(tmp_path, shown)
    sequences = find_sequences(tmp_path, 'youtube-vos', 'valid')
    # the squares are small, and move by half of their side
    monkeypatch.setattr('eosvos.follow.jitter', partial(jitter, grow=0.7))
    about = ABOUT | dict(dataset='youtube-vos', split='valid')
    result = run_benchmark(sequences, tmp_path / 'out', tracker(), about)
    for i in range(6):
        assert torch.equal(read_mask(tmp_path / f'out/masks/v/{5 * i:05d}.png'), truth[i]), i
    assert result['scores'] is None and result['object_frames'] == sum(
        6 - first for first in shown.values()
    )
    first = min(shown.values())
    assert (
        submit(tmp_path / 'out/masks', sequences, tmp_path / 'a.zip', 'Annotations/') == 6 - first
    )
    with ZipFile(tmp_path / 'a.zip') as archive:
        assert archive.namelist() == [f'Annotations/v/{5 * i:05d}.png' for i in range(first, 6)]


# ---- tables and figures


def result(variant='e-osvos-10', dataset='davis-2017', j=0.5, f=0.75, **objects):
    "A result with made-up scores."
    steps, online = int(variant.split('-')[2]), variant.endswith('ona')
    scores = {
        'J&F-Mean': (j + f) / 2,
        'J-Mean': j,
        'J-Recall': 1,
        'J-Decay': 0.125,
        'F-Mean': f,
        'F-Recall': 1,
        'F-Decay': 0,
    }
    setup = dict(
        variant=variant,
        dataset=dataset,
        split='val',
        config=dict(fine_tune=dict(iterations=steps), online=online),
    )
    return dict(
        setup=setup,
        scores=scores,
        objects={name: dict(J=o, F=o) for name, o in objects.items()},
        fps=4,
        fps_objects=8,
    )


def test_numbers_of_a_result():
    expected = {'J': 50, 'J-Recall': 100, 'J-Decay': 12.5, 'F': 75, 'F-Recall': 100, 'F-Decay': 0}
    assert percent(result()) == expected | {'J&F': 62.5, 'FPS': 8}
    assert as_markdown(['', 'J'], [['mine', '50']]).splitlines()[-1] == '| mine | 50 |'


# ---- the command line


def test_benchmark_and_submit(root, whole, tmp_path):
    done = eosvos(
        'submit',
        whole / 'masks',
        root,
        '--dataset',
        'davis-2017',
        '--split',
        'tiny',
        '--out',
        tmp_path / 'a.zip',
    )
    assert done.exit_code == 0 and '10 masks in' in done.stdout
    assert 'ends in .zip' in refused(
        'submit',
        whole / 'masks',
        root,
        '--dataset',
        'davis-2017',
        '--split',
        'tiny',
        '--out',
        tmp_path / 'a.png',
    )


def test_switches_reach_the_setup(root, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, '_follow_sequence', lambda *more: dict(frames=1, seconds=1))
    monkeypatch.setattr(
        benchmark, 'sleep', lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    more = (
        '--extra-boxes',
        0,
        '--lr',
        0.5,
        '--nearness',
        0.25,
        '--online-frames',
        'paper',
        '--online-reset',
        'none',
        '--seed',
        9,
    )
    assert eosvos(*command(root, tmp_path / 'out', *more)).exit_code == 130
    said = json.loads((tmp_path / 'out/setup.json').read_text())
    config = said['config']
    assert (
        config['extra_boxes'],
        config['nearness'],
        config['online_frames'],
        config['online_reset'],
        config['seed'],
    ) == (0, 0.25, 'paper', 'none', 9)
    assert said['rates'] == 0.5


@pytest.mark.parametrize(
    'more, said',
    [
        (['--variant', 'best'], 'variant'),
        (['--model', 'large'], 'large'),
        (['--split', 'no'], 'no'),
        (['--dataset', 'coco'], 'coco'),
        (['--online'], 'e-osvos-2 says'),
        (['--fine-tune.iterations', '3'], 'e-osvos-2 says'),
        (['--device', 'abacus'], 'abacus'),
    ],
)
def test_wrong_arguments_make_no_folder(root, tmp_path, more, said):
    assert (
        said in refused(*command(root, tmp_path / 'out', *more)) and not (tmp_path / 'out').exists()
    )


# ---- nothing is written elsewhere

HOSTILE = st.one_of(
    st.sampled_from(
        [
            '../evil',
            '/tmp/evil',
            '..',
            '.',
            'a/b',
            'cup/../../evil',
            '',
            'con\x00',
            '~',
            '-rf',
            'cup ',
            '\\..\\x',
        ]
    ),
    st.text(max_size=12),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(HOSTILE, max_size=3),
    frame=HOSTILE,
    kind=st.sampled_from(['davis-2017', 'youtube-vos']),
)
def test_hostile_names_write_nothing_elsewhere(tmp_path, names, frame, kind):
    "Whatever lists of sequences and meta.json say, all is as before but for the folder of results."
    place = tmp_path / 'place'
    shutil.rmtree(place, ignore_errors=True)
    data, out = place / 'data', place / 'results'
    if kind == 'davis-2017':
        make_davis(data, [('cup', 0, 3)])
        (data / 'ImageSets/2017/tiny.txt').write_text('\n'.join(['cup', *names]), errors='replace')
    else:
        make_youtube(data, {1: 0})
        videos = {name: {'objects': {'1': {'category': 'x', 'frames': [frame]}}} for name in names}
        (data / 'valid/meta.json').write_text(
            json.dumps({'videos': {'v': {'objects': {'1': {'frames': [frame, '00000']}}}} | videos})
        )
    before, what = (
        files(place),
        (data, '--dataset', kind, '--split', 'tiny' if kind == 'davis-2017' else 'valid'),
    )
    calls = [
        ('benchmark', *what, '--variant', 'e-osvos-0', '--out', out / 'run'),
        ('submit', out / 'run/masks', *what, '--out', out / 'a.zip'),
        ('evaluate', out / 'run/masks', data / 'Annotations/480p', '--csv', out / 'csv'),
    ]
    out.mkdir()
    for call in calls:
        done = eosvos(*call)
        assert done.exit_code == 0 or isinstance(done.exception, SystemExit), (call, done.exception)
    after = files(place)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith('results/') for name in after.keys() - before.keys())
    assert sorted(path.name for path in tmp_path.iterdir()) == ['place']
