"The command line: what works, and what is answered with one line instead of a traceback."

import csv
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from command import invoke
from PIL import Image

from eosvos import cli, follow
from eosvos.core import DEMO
from eosvos.follow import PAPER_SEGMENT, SMALL_SEGMENT
from eosvos.small import PAPER, build
from eosvos.video import object_ids, open_clip, read_image, read_mask, write_mask, write_video
from eosvos.weights import save_weights

MASK = DEMO / 'masks/00000.png'


def eosvos(*arguments):
    "Run a command in this process."
    return invoke(arguments)


def works(*arguments):
    "Run a command that should succeed; its standard output."
    done = eosvos(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(*arguments):
    "Run a command that should be answered with one line on standard error; that line."
    done = eosvos(*arguments)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), (
        done.output,
        done.exception,
    )
    assert done.stdout == '' and 'Traceback' not in done.stderr
    line = done.stderr.strip().splitlines()[-1]  # a bar of progress may stand before it
    assert line.startswith('eosvos: ')
    return line


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def shrunk(path, size=(160, 90)):
    "A picture of the demo clip as a small one."
    with Image.open(path) as picture:
        return picture.resize(size, Image.Resampling.NEAREST)


@pytest.fixture
def frames(tmp_path):
    "Three frames of the demo clip at a quarter of its size."
    (tmp_path / 'clip').mkdir()
    for i in range(3):
        shrunk(DEMO / f'frames/{i:05d}.jpg').save(tmp_path / f'clip/{i:05d}.jpg')
    return tmp_path / 'clip'


@pytest.fixture
def mask(tmp_path):
    "The mask of the first frame."
    shrunk(MASK).save(tmp_path / 'mask.png')
    return tmp_path / 'mask.png'


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'deep/out'


def segment(frames, mask, out, *more):
    return 'segment', frames, mask, '--out', out, '--fine-tune.iterations', 0, *more


# ---- segment: what works


def test_masks_and_overlay(frames, mask, out):
    text = works(*segment(frames, mask, out, '--fine-tune.iterations', 1))
    assert '3 frames in' in text and str(out) in text
    assert names(out) == ['masks', 'overlay.mp4'] and names(out / 'masks') == [
        '00000.png',
        '00001.png',
        '00002.png',
    ]
    assert torch.equal(read_mask(out / 'masks/00000.png'), read_mask(mask))
    for path in (out / 'masks').iterdir():
        with Image.open(path) as picture:
            assert picture.mode == 'P' and picture.size == (160, 90)
    assert len(open_clip(out / 'overlay.mp4')) == 3


def test_objects_are_named_first(frames, mask, out):
    with Image.open(mask) as picture:
        ids = np.array(picture)
    ids[:9], ids[-9:] = 7, 255
    Image.fromarray(ids).save(mask)
    said = eosvos(*segment(frames, mask, out)).stderr
    assert 'fine-tuning on object 1, 7; 255 is taken as unknown, not as an object' in said


def test_a_warning_is_a_line(frames, mask, out, monkeypatch):
    monkeypatch.setattr(cli, '_objects_line', lambda given: warnings.warn('turned', stacklevel=2))
    said = eosvos(*segment(frames, mask, out)).stderr
    assert 'eosvos: turned\n' in said and '.py' not in said


def test_a_folder_of_masks_needs_no_number_of_a_frame(frames, mask, out, tmp_path):
    (tmp_path / 'masks').mkdir()
    mask.rename(tmp_path / 'masks/00001.png')
    assert 'expected no number of a frame, got 2' in refused(
        *segment(frames, tmp_path / 'masks', out, '--mask-frame', 2)
    )


@pytest.fixture
def as_video(frames, tmp_path):
    images = [read_image(path) for path in sorted(frames.iterdir())]
    times = [Fraction(i, 10) for i in range(len(images) + 1)]
    write_video(tmp_path / 'clip.mp4', images, times)
    return tmp_path / 'clip.mp4'


def test_video_file(as_video, mask, out):
    works(*segment(as_video, mask, out))
    assert names(out / 'masks') == ['00000.png', '00001.png', '00002.png']
    assert open_clip(out / 'overlay.mp4').times[1] == Fraction(1, 10)


def test_names_of_the_frames_are_kept(frames, mask, out):
    for i, name in enumerate(['shot2', 'shot10', 'shot9']):
        (frames / f'{i:05d}.jpg').rename(frames / f'{name}.jpg')
    works(*segment(frames, mask, out, '--mask-frame', 1))
    assert names(out / 'masks') == ['shot10.png', 'shot2.png', 'shot9.png']
    assert torch.equal(read_mask(out / 'masks/shot9.png'), read_mask(mask)), (
        'frame 1 in natural order'
    )


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P'])
def test_frames_of_other_modes(frames, mask, out, mode):
    for path in sorted(frames.iterdir()):
        with Image.open(path) as picture:
            picture.convert(mode).save(path.with_suffix('.png'))
        path.unlink()
    works(*segment(frames, mask, out))
    assert len(names(out / 'masks')) == 3


def test_one_pixel_object(frames, out, tmp_path):
    ids = torch.zeros(90, 160, dtype=torch.int64)
    ids[40, 60] = 1
    write_mask(tmp_path / 'dot.png', ids)
    works(*segment(frames, tmp_path / 'dot.png', out, '--fine-tune.iterations', 1))
    assert torch.equal(read_mask(out / 'masks/00000.png'), ids)


def test_a_later_object_and_ids_that_are_kept(frames, mask, out, tmp_path):
    (tmp_path / 'given').mkdir()
    first = read_mask(mask)
    write_mask(tmp_path / 'given/00000.png', first * 3)
    later = torch.zeros_like(first)
    later[10:40, 20:60] = 7
    write_mask(tmp_path / 'given/00001.png', later)
    works(*segment(frames, tmp_path / 'given', out))
    found = [set(read_mask(out / f'masks/{i:05d}.png').unique().tolist()) for i in range(3)]
    assert {0, 3} <= found[0] <= {0, 3, 7} and 7 in found[1] and found[2] <= {0, 3, 7}


def test_davis_2016_masks(frames, mask, out, tmp_path):
    "255 as the only value beside 0 is object 1."
    Image.fromarray((read_mask(mask).numpy() * 255).astype(np.uint8)).save(tmp_path / 'white.png')
    works(*segment(frames, tmp_path / 'white.png', out))
    assert torch.equal(read_mask(out / 'masks/00000.png'), read_mask(mask))


def test_options_reach_the_configuration(frames, mask, out, monkeypatch):
    seen = []

    def spy(tracker, clip, given, saved):
        seen.append((tracker, given))
        saved.touch()
        return iter([(i, ids) for i in range(len(clip)) for ids in given.values()])

    monkeypatch.setattr(follow, 'follow', spy)
    works(
        'segment',
        frames,
        mask,
        '--out',
        out,
        '--fine-tune.iterations',
        4,
        '--online',
        '--online-every',
        6,
        '--online-iterations',
        2,
        '--nearness',
        0.5,
        '--max-growth',
        3,
        '--mask-frame',
        2,
        '--seed',
        9,
        '--device',
        'cpu',
    )
    ((tracker, given),) = seen
    config = tracker.config
    assert tracker.rates.keys() == dict(tracker.model.named_parameters()).keys(), (
        'the shipped weights have learned ones'
    )
    assert (
        config.fine_tune.iterations,
        config.online,
        config.online_every,
        config.online_iterations,
    ) == (4, True, 6, 2)
    assert (config.nearness, config.max_growth, config.seed) == (0.5, 3, 9)
    assert list(given) == [2] and tracker.device == torch.device('cpu')
    assert config.fine_tune.batch == SMALL_SEGMENT.fine_tune.batch != PAPER_SEGMENT.fine_tune.batch
    works('segment', frames, mask, '--out', out.with_name('other'), '--lr', 0.25)
    assert seen[1][0].rates == 0.25 and seen[1][0].config == SMALL_SEGMENT


# ---- segment: bad input, before anything is written


def test_mask_of_another_size(frames, out):
    line = refused(*segment(frames, MASK, out))
    assert str(MASK) in line and '640x360' in line and '160x90' in line and not out.exists()


def test_mask_without_an_object(frames, out, tmp_path):
    write_mask(tmp_path / 'empty.png', torch.zeros(90, 160, dtype=torch.int64))
    line = refused(*segment(frames, tmp_path / 'empty.png', out))
    assert 'empty.png' in line and 'expected the mask of an object' in line and not out.exists()


@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
def test_mask_in_colour(frames, mask, out, tmp_path, mode):
    with Image.open(mask) as picture:
        picture.convert(mode).save(tmp_path / 'colour.png')
    line = refused(*segment(frames, tmp_path / 'colour.png', out))
    assert (
        'colour.png' in line
        and 'one channel' in line
        and f'got a PNG of mode {mode}' in line
        and not out.exists()
    )


def test_mask_in_colour_of_half_the_size(frames, mask, out, tmp_path):
    with Image.open(mask) as picture:
        half = picture.convert('RGB').resize((80, 45), Image.Resampling.NEAREST)
    half.save(tmp_path / 'half.png')
    words = *segment(frames, tmp_path / 'half.png', out), '--colours'
    assert '--resize scales it' in refused(*words)
    works(*words, '--resize')
    given, true = read_mask(out / 'masks/00000.png'), read_mask(mask)
    assert given.shape == true.shape and (given == true).float().mean() > 0.98


@pytest.mark.parametrize('frame', [3, 99])
def test_mask_of_a_frame_beyond_the_clip(frames, mask, out, frame):
    line = refused(*segment(frames, mask, out, '--mask-frame', frame))
    assert 'from 0 to 2' in line and f'got {frame}' in line and not out.exists()


def test_masks_of_frames_that_are_not_there(frames, mask, out, tmp_path):
    (tmp_path / 'given').mkdir()
    shutil.copy(mask, tmp_path / 'given/00007.png')
    line = refused(*segment(frames, tmp_path / 'given', out))
    assert 'given/00007.png' in line and 'such as 00000' in line and not out.exists()


@pytest.mark.parametrize('missing', ['frames', 'mask', 'model'])
def test_missing_files(frames, mask, out, tmp_path, missing):
    paths = dict(frames=frames, mask=mask, model='small') | {missing: tmp_path / 'nope'}
    line = refused(*segment(paths['frames'], paths['mask'], out, '--model', paths['model']))
    assert str(tmp_path / 'nope') in line and not out.exists()


def test_a_folder_without_pictures(mask, out, tmp_path):
    (tmp_path / 'none').mkdir()
    assert 'no pictures' in refused(*segment(tmp_path / 'none', mask, out)) and not out.exists()


def test_truncated_files(frames, mask, out, as_video, tmp_path):
    for path, arguments in [
        (mask, (frames, mask)),
        (as_video, (as_video, mask)),
        (frames / '00000.jpg', (frames, MASK)),
    ]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        line = refused(*segment(*arguments, out))
        assert str(path) in line and 'cannot be read' in line and not out.exists()


def test_a_video_that_is_none(mask, out, tmp_path):
    (tmp_path / 'text.mp4').write_text('no video')
    line = refused(*segment(tmp_path / 'text.mp4', mask, out))
    assert 'text.mp4' in line and 'cannot be read as a video' in line and not out.exists()


def test_weights_that_are_none(frames, mask, out, tmp_path):
    (tmp_path / 'weights.safetensors').write_text('no weights')
    assert (
        'weights.safetensors'
        in refused(*segment(frames, mask, out, '--model', tmp_path / 'weights.safetensors'))
        and not out.exists()
    )


def test_a_device_that_is_not_there(frames, mask, out):
    assert (
        "'abacus'" in refused(*segment(frames, mask, out, '--device', 'abacus'))
        and not out.exists()
    )


@pytest.mark.parametrize(
    'words, said',
    {
        '--fine-tune.iterations -1': 'iterations: expected at least 0, got -1',
        '--online-every 0': 'online_every: expected at least 1, got 0',
        '--mask-frame -1': 'expected a frame from 0 to 2, got -1',
        '--binarize 300': 'expected the mask of an object',
        '--lr -0.5': 'rates: expected at least 0',
        '--nearness 1.5': 'nearness: expected 0 to 1, got 1.5',
    }.items(),
)
def test_options_out_of_range(frames, mask, out, words, said):
    done = eosvos(*segment(frames, mask, out), *words.split())
    assert done.exit_code in (1, 2) and isinstance(done.exception, SystemExit)
    assert said in ' '.join(done.stderr.split()) and not out.exists()
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    'words, said',
    {
        'segment': 'Missing',
        'segment --out': 'Missing value',
        'segment FRAMES MASK': '--out',
        'segment A B --out C --overlp 1': '--overlp',
        'segment A B --out C --seed many': "'many'",
        'segment A B --out C --model': 'Missing value',
        'segment A B C --out D': 'C',
        'segment A B --out C --iterations 3': '--iterations',
        'segment A B --out C --online maybe': 'maybe',
        'nothing': 'nothing',
        'evaluate A': 'ANNOTATIONS',
        'evaluate A B --workers x': "'x'",
        'benchmark A --dataset davis-2017': '--split',
        'submit A': 'ROOT',
        'demo --out': 'Missing value',
        'weights': 'Missing',
        'weights coco': '--out',
        'weights json A --out B': "'json'",
        'train': '--data',
        'train small --data A': '--out',
        'train tiny --data A --out B': 'tiny',
        'train small --data A --out B --steps many': "'many'",
        'train small --data A --out B --set steps=3': '--set',
    }.items(),
)
def test_wrong_usage_is_said_in_a_few_lines(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = eosvos(*words.split())
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.exception
    assert (
        said in done.stderr
        and 'Traceback' not in done.stderr
        and done.stdout == ''
        and not names(tmp_path)
    )


# ---- segment: the folder of results


def test_a_file_where_the_folder_should_be(frames, mask, tmp_path):
    (tmp_path / 'file').write_text('mine')
    line = refused(*segment(frames, mask, tmp_path / 'file/out'))
    assert (
        str(tmp_path / 'file/out') in line
        and 'Not a directory' in line
        and (tmp_path / 'file').read_text() == 'mine'
    )


@pytest.mark.skipif(not Path('/proc/self').is_dir(), reason='no /proc')
def test_a_folder_that_cannot_be_written(frames, mask):
    assert '/proc/eosvos' in refused(*segment(frames, mask, '/proc/eosvos'))


@pytest.mark.skipif(
    hasattr(os, 'geteuid') and os.geteuid() == 0, reason='root may write everywhere'
)
def test_a_folder_without_permission(frames, mask, out):
    (out / 'masks').mkdir(parents=True)
    (out / 'masks').chmod(0o555)
    assert 'cannot be written' in refused(*segment(frames, mask, out))


@pytest.mark.parametrize(
    'left', ['masks/00000.png', 'masks/other.png', 'masks/.00000.1234.png', 'overlay.mp4']
)
def test_old_results_are_refused_and_left_alone(frames, mask, out, left):
    (out / left).parent.mkdir(parents=True)
    (out / left).write_text('old')
    line = refused(*segment(frames, mask, out))
    assert str(out / left) in line and 'expected no results' in line
    assert [path for path in out.rglob('*') if path.is_file()] == [out / left] and (
        out / left
    ).read_text() == 'old'


def test_other_files_in_the_folder_do_not_matter(frames, mask, out):
    (out / 'masks').mkdir(parents=True)
    (out / 'notes.txt').write_text('mine')
    works(*segment(frames, mask, out))
    assert names(out) == ['masks', 'notes.txt', 'overlay.mp4']


def test_a_broken_frame_in_the_middle(frames, mask, out):
    "What was finished stays, complete; when the frame is repaired the same command goes on."
    path = frames / '00002.jpg'
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])  # its head is whole
    line = refused(*segment(frames, mask, out))
    assert str(path) in line
    path.write_bytes(whole)
    works(*segment(frames, mask, out))
    assert len(names(out / 'masks')) == 3


def test_an_interruption_leaves_complete_files(frames, mask, out, monkeypatch):
    original = follow.follow

    def interrupted(*arguments, **more):
        for i, ids in original(*arguments, **more):
            if i == 2:
                raise KeyboardInterrupt
            yield i, ids

    monkeypatch.setattr(follow, 'follow', interrupted)
    done = eosvos(*segment(frames, mask, out))
    assert done.exit_code == 130 and 'Traceback' not in done.output
    assert names(out) == ['masks', 'unfinished.pt'] and names(out / 'masks') == [
        '00000.png',
        '00001.png',
    ]
    for name in names(out / 'masks'):
        read_mask(out / 'masks' / name)
    assert 'cannot go on from it: it belongs to other' in refused(
        *segment(frames, mask, out, '--seed', 2)
    )
    monkeypatch.setattr(follow, 'follow', original)
    works(*segment(frames, mask, out))  # the same command goes on
    assert names(out) == ['masks', 'overlay.mp4'] and len(names(out / 'masks')) == 3


def test_an_interruption_while_a_file_is_written(frames, mask, out, monkeypatch):
    original = Image.Image.save

    def interrupted(self, path, *more, **others):
        original(self, path, *more, **others)
        if len(list(Path(path).parent.iterdir())) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, 'save', interrupted)
    assert eosvos(*segment(frames, mask, out)).exit_code != 0
    assert names(out / 'masks') == ['00000.png']
    monkeypatch.undo()
    works(*segment(frames, mask, out))
    assert len(names(out / 'masks')) == 3


def test_fine_tuning_that_diverges(frames, mask, out, monkeypatch):
    def diverges(*arguments):
        raise FloatingPointError("inner step: losses are not finite: {'loss_mask': nan}")

    monkeypatch.setattr(follow, 'fine_tune', diverges)
    assert 'losses are not finite' in refused(*segment(frames, mask, out))
    monkeypatch.undo()
    works(
        *segment(frames, mask, out, '--seed', 2)
    )  # nothing was done: other settings are no other run


# ---- evaluate


@pytest.fixture
def scored(tmp_path):
    "Five true masks of two objects and predictions: right, but for one object in one frame."
    ids = torch.zeros(40, 60, dtype=torch.int64)
    ids[5:20, 5:20], ids[25:35, 30:50] = 1, 2
    for kind in ('true', 'found'):
        (tmp_path / kind / 'walk[1]').mkdir(parents=True)
        for i in range(5):
            write_mask(
                tmp_path / kind / 'walk[1]' / f'{i:05d}.png',
                ids if (kind, i) != ('found', 2) else ids * (ids == 1),
            )
    return tmp_path / 'found', tmp_path / 'true'


@pytest.mark.parametrize('below', ['.', 'walk[1]'])
def test_evaluate(scored, tmp_path, below):
    text = works(
        'evaluate', *[folder / below for folder in scored], '--csv', tmp_path / 'deep/scores'
    )
    assert [
        line.strip('│┃ ').split() for line in text.splitlines() if 'walk' in line or 'mean' in line
    ] == [
        ['walk[1]_1', '│', '100.0', '│', '100.0', '│', '100.0'],
        ['walk[1]_2', '│', '66.7', '│', '66.7', '│', '66.7'],
        ['mean', '│', '83.3', '│', '83.3', '│', '83.3'],
    ]
    read = lambda name: list(csv.reader((tmp_path / 'deep/scores' / name).read_text().splitlines()))
    header, values = read('global_results.csv')
    assert header == ['J&F-Mean', 'J-Mean', 'J-Recall', 'J-Decay', 'F-Mean', 'F-Recall', 'F-Decay']
    assert float(values[0]) == pytest.approx(5 / 6, abs=1e-5)
    rows = read('per-sequence_results.csv')
    assert rows[0] == ['Sequence', 'J-Mean', 'F-Mean'] and [row[0] for row in rows[1:]] == [
        'walk[1]_1',
        'walk[1]_2',
    ]


def test_evaluate_refuses(scored, tmp_path):
    found, true = scored
    assert 'nope' in refused('evaluate', tmp_path / 'nope', true)
    assert 'nope' in refused('evaluate', found, tmp_path / 'nope')
    (tmp_path / 'file').write_text('mine')
    assert (
        'eosvos: '
        in (done := eosvos('evaluate', found, true, '--csv', tmp_path / 'file/scores')).stderr
        and done.exit_code == 1
    )
    missing = found / 'walk[1]/00003.png'
    missing.unlink()
    assert str(missing) in refused('evaluate', found, true)
    write_mask(missing, torch.ones(4, 4, dtype=torch.int64))
    line = refused('evaluate', found, true)
    assert '(40, 60)' in line and '(4, 4)' in line


# ---- demo


@pytest.fixture
def tiny_demo(tmp_path, monkeypatch):
    "The demo on three small frames, without its inner steps."
    for kind, suffix in (('frames', 'jpg'), ('masks', 'png')):
        (tmp_path / 'demo' / kind).mkdir(parents=True)
        for i in range(3):
            shrunk(DEMO / kind / f'{i:05d}.{suffix}').save(
                tmp_path / 'demo' / kind / f'{i:05d}.{suffix}'
            )
    monkeypatch.setattr(cli, 'DEMO', tmp_path / 'demo')

    def truth(tracker, clip, given, saved):
        return iter([(i, given[0]) for i in range(len(clip))])

    monkeypatch.setattr(
        follow,
        'follow',
        lambda tracker, clip, given, saved: (saved.touch(), truth(tracker, clip, given, saved))[1],
    )


def test_demo(tiny_demo, out):
    for _ in range(2):  # a second time it replaces its own results
        text = works('demo', '--out', out)
        for name in r'zero-shot \(e-osvos-0\)', r'fine-tuned \(e-osvos-10-ona\)':
            assert re.search(rf'{name}: J [\d.]+, F [\d.]+, [\d.]+ s\n', text)
        assert names(out) == ['masks', 'overlay.mp4', 'strip.png', 'zero-shot']
        assert (
            names(out / 'zero-shot') == ['masks', 'overlay.mp4', 'strip.png']
            and len(names(out / 'masks')) == 3
        )
        with Image.open(out / 'strip.png') as picture:
            picture.load()


def test_demo_after_an_interruption(tiny_demo, out):
    works('demo', '--out', out)
    (out / 'overlay.mp4').unlink(), (out / 'strip.png').unlink(), (out / 'masks/00002.png').unlink()
    works('demo', '--out', out)
    assert len(names(out / 'masks')) == 3


def test_demo_leaves_results_of_others_alone(tiny_demo, out):
    (out / 'masks').mkdir(parents=True)
    (out / 'masks/00000.png').write_text('mine')
    assert 'expected no results' in refused('demo', '--out', out)
    assert names(out) == ['masks'] and (out / 'masks/00000.png').read_text() == 'mine'


def test_ids_that_no_mask_file_of_ours_can_hold(frames, out, tmp_path):
    ids = np.zeros((90, 160), np.uint16)
    ids[4:20, 4:20] = 300
    Image.fromarray(ids).save(tmp_path / 'ids.png')
    assert (
        'expected ids from 0 to 255' in refused(*segment(frames, tmp_path / 'ids.png', out))
        and not out.exists()
    )


def test_two_real_objects(data, tmp_path):
    "The first frames of bmx-trees: a bicycle and its rider."
    clip, masks = (
        data / 'DAVIS/JPEGImages/480p/bmx-trees',
        data / 'DAVIS/Annotations-2017/480p/bmx-trees',
    )
    (tmp_path / 'clip').mkdir()
    for name in ('00000', '00001', '00002'):
        shutil.copy(clip / f'{name}.jpg', tmp_path / 'clip')
    works(
        'segment',
        tmp_path / 'clip',
        masks / '00000.png',
        '--out',
        tmp_path / 'out',
        '--fine-tune.iterations',
        3,
    )
    for name in ('00001', '00002'):
        assert set(object_ids(read_mask(tmp_path / 'out/masks' / f'{name}.png'))) == {1, 2}


# ---- weights, train, help


def test_weights_refuse(tmp_path):
    (tmp_path / 'text.pth').write_text('no weights')
    for kind in ('coco', 'import'):
        for file in ('nope.pth', 'text.pth'):
            assert file in refused(
                'weights', kind, tmp_path / file, '--out', tmp_path / 'out.safetensors'
            )
    assert not (tmp_path / 'out.safetensors').exists()


def test_train_refuses(tmp_path):
    for wrong in ('--checkpoint-every', 0), ('--steps', 0), ('--batch', -1):
        done = eosvos('train', 'small', '--data', tmp_path, '--out', tmp_path / 'run', *wrong)
        assert done.exit_code == 2 and 'expected at least 1' in done.stderr
    (tmp_path / 'weights.safetensors').write_text('an hour of work')
    assert 'weights.safetensors: would be lost' in refused(
        'train', 'small', '--data', tmp_path, '--out', tmp_path, '--resume'
    )


@pytest.mark.parametrize(
    'command, words',
    {
        '': 'demo segment evaluate benchmark submit train weights',
        'demo': '--out --device',
        'evaluate': 'PREDICTIONS ANNOTATIONS --csv --protocol --workers',
        'benchmark': 'ROOT --dataset --split --out --variant --model --lr --extra-boxes '
        '--nearness --online-frames --online-reset '
        '--device --seed --fine-tune.batch',
        'submit': 'PREDICTIONS ROOT --dataset --split --out',
        'segment': 'FRAMES MASK --out --model --fine-tune.iterations --lr --online '
        '--no-online --online-every --online-iterations '
        '--online-frames --online-reset --nearness --fill --max-growth --mask-frame --device '
        '--seed',
        'weights': 'coco import',
        'weights coco': 'FILE --out',
        'weights import': 'FILE --out',
        'train': '--data --out --device parent small paper',
        'train small': '--data --out --device --steps --tasks.paste --tasks.view.angle',
    }.items(),
)
def test_help(command, words):
    text = works(*command.split(), '--help')
    assert all(word in text for word in words.split())


def test_the_help_says_the_defaults_of_the_weights_that_are_named(tmp_path):
    model = build(replace(PAPER, channels=8))
    save_weights(model, replace(PAPER, channels=8), tmp_path / 'full.safetensors')
    for weights, batch in (
        ('small', SMALL_SEGMENT.fine_tune.batch),
        (tmp_path / 'full.safetensors', PAPER_SEGMENT.fine_tune.batch),
    ):
        text = ' '.join(works('segment', '--help', f'--model={weights}').replace('│', '').split())
        assert re.search(rf'--fine-tune.batch INT [^-]*\(default: {batch}\)', text)


def test_no_command_shows_the_help():
    assert 'subcommands' in works()


def test_as_a_program(frames, mask, out):
    "The installed command, in a process of its own: a mistake, and then the real thing."
    program = Path(sys.executable).parent / 'eosvos'
    code = (
        [program]
        if program.exists()
        else [sys.executable, '-c', 'from eosvos.cli import app; app()']
    )

    def run(*arguments):
        return subprocess.run(
            [*code, *map(str, arguments)], capture_output=True, text=True, timeout=300
        )

    wrong = run(*segment(frames, MASK, out))
    assert (
        wrong.returncode == 1
        and wrong.stdout == ''
        and wrong.stderr.startswith('eosvos: ')
        and wrong.stderr.count('\n') == 1
    )
    done = run(*segment(frames, mask, out))
    assert done.returncode == 0, done.stderr
    assert '3 frames in' in done.stdout and len(names(out / 'masks')) == 3


# ---- evaluate: protocols


def test_the_protocol_decides_which_frames_count(tmp_path):
    "The last frame is wrong: DAVIS does not look at it, YouTube-VOS does."
    shutil.copytree(DEMO / 'masks', tmp_path / 'masks')
    last = sorted((tmp_path / 'masks').iterdir())[-1]
    write_mask(last, torch.zeros_like(read_mask(last)))
    for protocol, perfect in ('davis', True), ('youtube-vos', False):
        assert (
            '100.0' in works('evaluate', tmp_path / 'masks', DEMO / 'masks', '--protocol', protocol)
        ) == perfect
    assert 'protocol' in refused('evaluate', DEMO / 'masks', DEMO / 'masks', '--protocol', 'coco')


def test_more_processes_give_the_same_table():
    assert works('evaluate', DEMO / 'masks', DEMO / 'masks', '--workers', 2) == works(
        'evaluate', DEMO / 'masks', DEMO / 'masks'
    )


@pytest.mark.parametrize('option', ['--online-frames', '--online-reset'])
def test_unknown_choices_of_online_adaptation(frames, mask, out, option):
    done = eosvos(*segment(frames, mask, out, option, 'best'))
    assert done.exit_code == 2 and option in done.stderr and 'best' in done.stderr
    assert done.stdout == '' and not out.exists()
