"The command line on clips of all kinds: stacks, turned or damaged videos, and odd names."

import os
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from command import invoke
from PIL import Image

from eosvos import cli, follow
from eosvos.video import open_clip, read_mask, write_mask, write_video


def eosvos(*arguments):
    "Run a command in this process."
    return invoke([str(o) for o in arguments])


def refused(*arguments):
    "Run a command that should be answered with one line on standard error; that line."
    done = eosvos(*arguments)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), (
        done.output,
        done.exception,
    )
    line = done.stderr.strip().splitlines()[-1]  # a bar of progress may stand before it
    assert 'Traceback' not in done.output and line.startswith('eosvos: ')
    return line


@pytest.fixture
def copied(monkeypatch):
    "Let objects stay where they are given, without a model; the frames that are read."
    read = []

    def stay(tracker, clip, given, saved):
        saved.touch()
        for index in range(len(clip)):
            read.append(clip[index])
            yield index, next(iter(given.values()))

    monkeypatch.setattr(follow, 'follow', stay)
    tracker = follow.Tracker(SimpleNamespace(), 1e-3, follow.SegmentConfig())
    monkeypatch.setattr(cli, 'load', lambda *arguments: tracker)
    return read


def works(frames, mask, out, *more):
    "Segment; the names of the masks, and standard error."
    done = eosvos('segment', frames, mask, '--out', out, *more)
    assert done.exit_code == 0, (done.output, done.exception)
    return sorted(path.stem for path in (out / 'masks').iterdir()), done.stderr


def images(count=4, H=32, W=48):
    return [torch.full((3, H, W), 0.2 * index) for index in range(count)]


@pytest.fixture
def mask(tmp_path):
    "An object in a corner of 48x32 pixels."
    ids = torch.zeros(32, 48, dtype=torch.int64)
    ids[:8, :10] = 1
    write_mask(tmp_path / 'mask.png', ids)
    return tmp_path / 'mask.png'


@pytest.fixture
def frames(tmp_path):
    (tmp_path / 'frames').mkdir()
    for index in range(3):
        Image.new('RGB', (48, 32), (60 * index, 0, 0)).save(tmp_path / f'frames/{index:05d}.png')
    return tmp_path / 'frames'


@pytest.mark.parametrize('name', ['x.tif', 'x.gif', 'x.webp', 'x.png'])
def test_every_page_of_a_stack_is_segmented(tmp_path, mask, copied, name):
    pages = [Image.new('RGB', (48, 32), (40 * index, 90, 0)) for index in range(4)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    found, _ = works(tmp_path / name, mask, tmp_path / 'out')
    assert (
        found == ['00000', '00001', '00002', '00003']
        and len(open_clip(tmp_path / 'out/overlay.mp4')) == 4
    )
    assert [round(image[0].mean().item() * 255) for image in copied[:4]] == pytest.approx(
        [0, 40, 80, 120], abs=3
    )
    assert 'expected one, it holds 4' in refused(
        'segment', tmp_path / name, tmp_path / name, '--out', tmp_path / 'other'
    )
    assert not (tmp_path / 'other').exists()


def test_a_mask_beside_its_frames(frames, mask, tmp_path, copied, monkeypatch):
    mask.rename(frames / 'mask.png')
    (tmp_path / 'link.png').symlink_to(frames / 'mask.png')
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate([frames / 'mask.png', 'frames/../frames/mask.png', 'link.png']):
        found, _ = works('frames', path, tmp_path / f'out{number}')
        assert found == ['00000', '00001', '00002']


def test_a_folder_of_masks_among_the_frames(frames, mask, tmp_path, copied):
    (frames / 'masks').mkdir()
    mask.rename(frames / 'masks/00001.png')
    assert works(frames, frames / 'masks', tmp_path / 'out')[0] == ['00000', '00001', '00002']


def test_frames_are_looked_at_before_anything_is_computed(frames, mask, tmp_path, copied):
    Image.new('RGB', (47, 32)).save(frames / '00002.png')
    line = refused('segment', frames, mask, '--out', tmp_path / 'out')
    assert '00002.png' in line and '48x32' in line and '47x32' in line
    assert copied == [] and not (tmp_path / 'out').exists()


def test_a_video_that_is_turned_upside_down(tmp_path, copied):
    "The mask is drawn on what a viewer shows, and lies on the same pixels in every result."
    up = torch.zeros(3, 32, 48)
    up[0, :16, :24] = 1
    write_video(tmp_path / 'x.mp4', [up.flip(1, 2)] * 3)
    content = bytearray((tmp_path / 'x.mp4').read_bytes())
    matrix = content.index(b'tkhd') + 44
    content[matrix : matrix + 36] = np.array(
        [-65536, 0, 0, 0, -65536, 0, 0, 0, 2**30], '>i4'
    ).tobytes()
    (tmp_path / 'x.mp4').write_bytes(content)
    ids = (up[0] > 0).long()
    write_mask(tmp_path / 'mask.png', ids)
    found, said = works(tmp_path / 'x.mp4', tmp_path / 'mask.png', tmp_path / 'out')
    assert said.count('turned as viewers show it') == 1
    for image in copied:
        torch.testing.assert_close(image, up, atol=0.1, rtol=0)
    assert all(torch.equal(read_mask(tmp_path / f'out/masks/{name}.png'), ids) for name in found)
    overlay = open_clip(tmp_path / 'out/overlay.mp4')
    assert overlay[1][0, :12, :20].mean() > 0.6 > 0.2 > overlay[1][0, 20:, 30:].mean()


def test_the_overlay_keeps_the_times_of_the_frames(tmp_path, mask, copied):
    times = [Fraction(time, 1000) for time in (0, 40, 1040, 1100, 3000)]
    write_video(tmp_path / 'x.mp4', images(), times=times)
    works(tmp_path / 'x.mp4', mask, tmp_path / 'out')
    assert open_clip(tmp_path / 'out/overlay.mp4').times == times
    with av.open(str(tmp_path / 'out/overlay.mp4')) as file:
        shown = [frame.duration * frame.time_base for frame in file.decode(video=0)]
        assert (
            shown == [b - a for a, b in pairwise(times)] and abs(file.duration / 10**6 - 3) < 0.002
        )


@pytest.mark.parametrize('name', ['12:30', 'a%03d', '100%', 'http:x', 'what?#', '-x'])
def test_names_that_look_like_addresses(tmp_path, mask, copied, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(f'{name}.mp4', images(2))
    done = eosvos('segment', f'--out={name}', '--', f'{name}.mp4', mask)
    assert done.exit_code == 0, (done.output, done.exception)
    assert (
        sorted(os.listdir(name)) == ['masks', 'overlay.mp4']
        and len(open_clip(tmp_path / name / 'overlay.mp4')) == 2
    )


def test_a_damaged_video_is_refused_or_used_in_part(tmp_path, mask, copied):
    with av.open(str(tmp_path / 'x.mp4'), 'w', options=dict(movflags='faststart')) as file:
        stream = file.add_stream('libx264', rate=25, options=dict(g='5'))
        stream.width, stream.height, stream.pix_fmt = 48, 32, 'yuv420p'
        for pixels in np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
        file.mux(stream.encode())
    content = (tmp_path / 'x.mp4').read_bytes()
    (tmp_path / 'x.mp4').write_bytes(content[: len(content) * 2 // 3])
    line = refused('segment', tmp_path / 'x.mp4', mask, '--out', tmp_path / 'out')
    count = int(line.split(' after ')[1].split(' frames')[0])
    assert (
        5 < count < 30
        and '--partial takes those' in line
        and copied == []
        and not (tmp_path / 'out').exists()
    )
    found, said = works(tmp_path / 'x.mp4', mask, tmp_path / 'out', '--partial')
    assert (
        len(found) == count
        and f'after {count} frames' in said
        and len(open_clip(tmp_path / 'out/overlay.mp4')) == count
    )


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        MemoryError('Unable to allocate 8.00 EiB for an array'),
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.'),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: ..."
        ),
    ],
)
def test_too_little_memory_is_one_line(frames, mask, tmp_path, copied, monkeypatch, error):
    def fails(*arguments, **more):
        raise error

    monkeypatch.setattr(follow, 'follow', fails)
    line = refused('segment', frames, mask, '--out', tmp_path / 'out')
    assert (
        'not enough memory' in line
        and 'smaller frames' in line
        and 'fewer objects' in line
        and '--fine-tune.accumulate' in line
        and '--fine-tune.batch 1' in line
        and '--device cpu' in line
    )


def test_memory_that_torch_cannot_have(frames, mask, tmp_path, copied, monkeypatch):
    monkeypatch.setattr(follow, 'follow', lambda *arguments, **more: torch.empty(2**60))
    assert 'not enough memory' in refused('segment', frames, mask, '--out', tmp_path / 'out')


def test_other_faults_of_a_program_keep_their_traceback(
    frames, mask, tmp_path, copied, monkeypatch
):
    def fails(*arguments, **more):
        raise RuntimeError('an illegal memory access was encountered')

    monkeypatch.setattr(follow, 'follow', fails)
    done = eosvos('segment', frames, mask, '--out', tmp_path / 'out')
    assert isinstance(done.exception, RuntimeError) and 'illegal memory access' in str(
        done.exception
    )


def test_an_encoder_that_fails_is_one_line(frames, mask, tmp_path, copied, monkeypatch):
    def fails(*arguments, **options):
        raise av.error.ExternalError(-1, 'Generic error in an external library')

    monkeypatch.setattr(av, 'open', fails)
    line = refused('segment', frames, mask, '--out', tmp_path / 'out')
    assert (
        'overlay.mp4 cannot be written' in line
        and 'smaller frames' in line
        and 'external library' in line
    )
