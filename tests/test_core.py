"Conventions and helpers: what is no lesson of workshop page 1."

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eosvos.core import (
    DEMO,
    PALETTE,
    demo_frame,
    find_device,
    generator,
    masks_to_boxes,
    overlay,
    write_then_rename,
)

quick = settings(max_examples=30, deadline=None)


@st.composite
def masks(draw):
    "A few random masks (N, H, W), some of them empty or full."
    N, H, W = draw(st.integers(0, 5)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    density = draw(st.sampled_from([0, 0.02, 0.3, 1]))
    return (
        torch.rand(N, H, W, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
        < density
    )


@quick
@given(masks())
def test_boxes_are_tight(masks):
    boxes = masks_to_boxes(masks)
    assert boxes.dtype == torch.float32 and boxes.shape == (len(masks), 4)
    for mask, box in zip(masks, boxes):
        x1, y1, x2, y2 = box.int().tolist()
        if not mask.any():
            assert [x1, y1, x2, y2] == [0, 0, 0, 0]
        else:
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum()
            assert (
                inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            )


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_boxes_of_any_type(dtype):
    mask = torch.zeros(1, 5, 6, dtype=dtype)
    mask[0, 4, 5] = 1
    assert masks_to_boxes(mask).tolist() == [[5, 4, 6, 5]]


def test_palette_is_that_of_pascal_voc():
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        15: (192, 128, 128),
        255: (224, 224, 192),
    }
    assert PALETTE.shape == (256, 3) and PALETTE.dtype == torch.uint8
    for k, colour in known.items():
        assert tuple(PALETTE[k].tolist()) == colour, k


def test_palette_is_that_of_davis_files(data):
    with Image.open(data / 'DAVIS/FirstFrames-2017/480p/soapbox/00000.png') as file:
        stored = file.getpalette()
    assert PALETTE.flatten().tolist() == stored


def test_overlay_takes_masks_and_ids():
    image, mask = torch.rand(3, 4, 5), torch.rand(4, 5) > 0.5
    assert torch.equal(overlay(image, mask), overlay(image, mask.long()))
    assert torch.equal(overlay(image, mask.byte()), overlay(image, mask))
    rim = overlay(torch.zeros_like(image), mask, alpha=0)[0] == 1
    assert (
        torch.equal(overlay(image, mask, alpha=0), image.masked_fill(rim, 1))
        and not (rim & ~mask).any()
    )
    assert overlay(image, torch.full((4, 5), 255)).max() <= 1


def test_demo_frames_follow_the_conventions():
    count = len(list((DEMO / 'frames').glob('*.jpg')))
    assert count == len(list((DEMO / 'masks').glob('*.png'))) > 1
    for index in range(count):
        image, ids = demo_frame(index)
        assert (
            image.dtype == torch.float32
            and ids.dtype == torch.int64
            and image.shape[1:] == ids.shape
        )
        assert image.is_contiguous() and 0 <= image.min() and image.max() <= 1


def test_generator_is_the_same_everywhere():
    assert generator(7, 'frame', 2).initial_seed() == 3515125721
    first = torch.rand(1, generator=generator(7, 'frame', 2)).item()
    assert abs(first - 0.50836158) < 1e-7


key = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), max_size=4).map(tuple)


@quick
@given(key, key)
def test_generators_differ_where_keys_do(a, b):
    same = generator(*a).initial_seed() == generator(*b).initial_seed()
    assert same == (a == b)  # by chance wrong once in 2**32


def test_generator_keys():
    assert generator(np.int64(3), torch.tensor(4)).initial_seed() == generator(3, 4).initial_seed()
    for bad in (0.5, None, (1, 2), torch.tensor([1, 2])):
        with pytest.raises(TypeError):
            generator(bad)


def test_write_then_rename(tmp_path):
    path = tmp_path / 'a.b.png'
    with write_then_rename(path) as temporary:
        assert (
            temporary.parent == tmp_path
            and temporary.suffix == '.png'
            and temporary.name.startswith('.')
        )
        assert not path.exists()
        temporary.write_text('one')
    assert path.read_text() == 'one'
    with write_then_rename(str(path)) as temporary:
        temporary.write_text('two')
    assert path.read_text() == 'two' and os.listdir(tmp_path) == ['a.b.png']


@pytest.mark.parametrize('error', [RuntimeError, OSError, KeyboardInterrupt])
def test_failure_leaves_what_was_there(tmp_path, error):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(error), write_then_rename(path) as temporary:
        temporary.write_text('half')
        raise error
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file.txt']
    with pytest.raises(error), write_then_rename(tmp_path / 'new.txt') as temporary:
        raise error
    assert os.listdir(tmp_path) == ['file.txt']


def test_file_permissions_are_ordinary(tmp_path):
    (tmp_path / 'plain').touch()
    with write_then_rename(tmp_path / 'ours') as temporary:
        temporary.write_text('x')
    assert (tmp_path / 'ours').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_unwritable_places_are_named(tmp_path):
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file' / 'x.png', tmp_path / 'missing' / 'x.png'):
        with pytest.raises(ValueError, match='x.png cannot be written'), write_then_rename(path):
            raise AssertionError('not reached')


@pytest.mark.skipif(
    not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write everywhere'
)
def test_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(ValueError, match='x.png cannot be written: Permission'),
        write_then_rename(tmp_path / 'x.png'),
    ):
        pass
    tmp_path.chmod(0o700)


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / 'x'
    with write_then_rename(path) as first, write_then_rename(path) as second:
        assert first != second
        first.write_text('1')
        second.write_text('2')
    assert path.read_text() == '1' and os.listdir(tmp_path) == ['x']


def test_find_device():
    assert find_device('cpu') == torch.device('cpu')
    assert find_device('auto').type == ('cuda' if torch.cuda.is_available() else 'cpu')
    for name in ('cuda:99', 'nonsense'):
        with pytest.raises(ValueError, match=f'{name}.*cannot be used'):
            find_device(name)
