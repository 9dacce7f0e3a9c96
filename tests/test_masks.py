"Masks: whether 255 is an object or void, 16 bits, soft edges, and masks that show nothing."

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from command import invoke
from PIL import Image, ImageFilter

from eosvos import cli
from eosvos.core import DEMO, PALETTE
from eosvos.datasets import Sequence
from eosvos.video import VOID, first_masks, is_binary, object_ids, open_clip, read_mask, write_mask

SIZE = H, W = 40, 60


def save(file, numbers, mode=np.uint8):
    "The numbers as they are, in a PNG of one channel."
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(numbers, mode)).save(file)
    return file


def block(value=1, at=(10, 10), side=9):
    "An id map with a square."
    ids = np.zeros(SIZE, np.uint8)
    ids[at[0] : at[0] + side, at[1] : at[1] + side] = value
    return ids


@pytest.fixture
def clip(tmp_path):
    "Five frames."
    for i in range(5):
        frame = np.random.default_rng(i).integers(0, 256, (*SIZE, 3), np.uint8)
        save(tmp_path / 'frames' / f'{i:05d}.png', frame)
    return open_clip(tmp_path / 'frames')


def sequence_of(folder, clip, *maps, **more):
    "A sequence whose first masks are these."
    files = [save(folder / 'masks' / f'{name}.png', ids) for name, ids in zip(clip.names, maps)]
    return Sequence('made', tuple(clip.files[: len(files)]), tuple(files), **more)


# ---- one convention for all masks of a sequence


@pytest.mark.parametrize(
    'values, binary',
    [
        ([(0, 255), (0,), (255,)], True),
        ([(0,), (0,)], True),
        ([], True),
        ([(0, 255), (0, 1)], False),
        ([(0, 1)], False),
        ([(0, 2, 255), (0, 255)], False),
    ],
)
def test_the_masks_of_a_sequence_are_of_one_kind(tmp_path, values, binary):
    files = [save(tmp_path / f'{i}.png', [row]) for i, row in enumerate(values)]
    assert is_binary(files) is binary
    for file, row in zip(files, values):
        assert read_mask(file, binary).tolist() == [[1 if binary and k == 255 else k for k in row]]


def test_no_more_files_are_read_than_needed(tmp_path, monkeypatch):
    files = [save(tmp_path / '0.png', [[0, 255]]), save(tmp_path / '1.png', [[0, 7]])]
    monkeypatch.setattr(Image.Image, 'load', None)  # so that no file can be read
    assert is_binary(files)
    monkeypatch.undo()
    opened = []
    assert not is_binary(opened.append(file) or file for file in [*files, *files])
    assert opened == files


def test_a_damaged_mask_is_named_when_it_is_read_and_not_before(tmp_path, clip):
    sequence = sequence_of(tmp_path, clip, block(255), block(255), block(0))
    sequence.masks[1].write_bytes(sequence.masks[1].read_bytes()[:40])
    assert object_ids(sequence.mask(0)) == [1] and not sequence.mask(2).any()
    for read in (lambda: sequence.mask(1), lambda: first_masks(tmp_path / 'masks', clip)):
        with pytest.raises(ValueError, match=r'00001\.png: cannot be read as a picture'):
            read()


def test_a_frame_of_void_is_no_object(tmp_path, clip):
    maps = block(3), block(255), block(0), block(3) | block(255, (25, 25))
    sequence = sequence_of(tmp_path, clip, *maps)
    found = [sequence.mask(i).unique().tolist() for i in range(4)]
    assert found == [[0, 3], [0, 255], [0], [0, 3, 255]]
    given = first_masks(tmp_path / 'masks', clip)
    assert all(torch.equal(given[i], sequence.mask(i)) for i in range(4))
    alone = first_masks(sequence.masks[1], clip, frame=1)
    assert object_ids(alone[1]) == [1], 'a single file decides by itself'


def test_white_masks_are_object_1_in_all_frames(tmp_path, clip):
    sequence = sequence_of(tmp_path, clip, block(0), block(255), block(255, side=3))
    assert [sequence.mask(i).unique().tolist() for i in range(3)] == [[0], [0, 1], [0, 1]]
    assert sequence.ids == [1] and list(sequence.given()) == [1]


def test_void_before_the_first_object_is_not_given(tmp_path, clip):
    sequence = sequence_of(tmp_path, clip, block(255), block(4))
    assert sequence.ids == [4] and list(sequence.given()) == [1]
    with pytest.raises(ValueError, match=r'00000\.png: .* got background .* \[0, 255\]'):
        first_masks(tmp_path / 'masks', clip)


def test_a_shorter_sequence_keeps_the_convention_of_the_whole(tmp_path, clip):
    maps = block(0), block(1), block(255), block(1), block(255)
    sequence = sequence_of(tmp_path, clip, *maps)
    for some in (sequence, replace(sequence, starts=((1, 1),))):
        short = some.every(2)
        assert [short.mask(i).unique().tolist() for i in range(3)] == [[0], [0, 255], [0, 255]]
        assert short.every(1).mask(1).unique().tolist() == [0, 255]
        with pytest.warns(UserWarning, match=r'00000\.png: expected an object'):
            assert short.ids == []


def test_void_stays_void_where_all_objects_are_one(tmp_path, clip):
    sequence = sequence_of(tmp_path, clip, block(2), block(255), single=True)
    assert [sequence.mask(i).unique().tolist() for i in range(2)] == [[0, 1], [0, 255]]


def test_the_convention_is_looked_for_once(tmp_path, clip, monkeypatch):
    sequence = sequence_of(tmp_path, clip, *[block(255)] * 5)
    opened, load = [], Image.Image.load
    monkeypatch.setattr(Image.Image, 'load', lambda self: opened.append(self) or load(self))
    for i in range(5):
        sequence.mask(i)
    first = len(opened)
    for i in range(5):
        sequence.mask(i)
    assert first == len(opened) / 3 * 2, 'all once for the convention, then each for itself'


# ---- 16 bits


@pytest.mark.parametrize(
    'numbers, ids',
    [
        ([0, 65535], [0, 1]),
        ([65535, 65535], [1, 1]),
        ([0, 1], [0, 1]),
        ([0, 255], [0, 1]),
        ([0, 257, 514, 65535], [0, 1, 2, 255]),  # 8 bits, stretched
        ([0, 257, 514], [0, 257, 514]),
        ([0, 300, 65535], [0, 300, 65535]),
    ],
)  # may be ids
@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_sixteen_bits(tmp_path, numbers, ids, suffix):
    assert read_mask(save(tmp_path / f'x.{suffix}', [numbers], np.uint16)).tolist() == [ids]


def test_white_of_any_depth_is_given_alike(tmp_path, clip):
    for name, white in ('eight', block(255)), ('sixteen', block(255).astype(np.uint16) * 257):
        given = first_masks(save(tmp_path / f'{name}.png', white, white.dtype), clip)
        assert torch.equal(given[0], torch.from_numpy(block(1)).long())
    wide = save(tmp_path / 'wide.png', block(1).astype(np.uint16) * 257, np.uint16)
    with pytest.raises(ValueError, match=r'wide\.png: expected ids from 0 to 255, .* got 257'):
        first_masks(wide, clip)


# ---- masks that show nothing


def test_a_later_mask_may_be_empty(tmp_path, clip):
    sequence_of(tmp_path, clip, block(2), block(0), block(2, (20, 20)))
    given = first_masks(tmp_path / 'masks', clip)
    assert {i: object_ids(ids) for i, ids in given.items()} == {0: [2], 1: [], 2: [2]}
    save(tmp_path / 'masks/00000.png', block(0))
    message = r'00000\.png: expected the mask of an object, got .* \[0\]'
    with pytest.raises(ValueError, match=message):
        first_masks(tmp_path / 'masks', clip)


# ---- soft edges


def cup(blur=0, size=(640, 360)):
    "The cup of the demo clip in white, its edges softened."
    with Image.open(DEMO / 'masks/00000.png') as file:
        white = Image.fromarray(np.asarray(file) * np.uint8(255))
    return white.filter(ImageFilter.GaussianBlur(blur)).resize(size, Image.Resampling.BILINEAR)


def through_jpeg(picture, quality):
    with TemporaryDirectory() as folder:
        picture.save(Path(folder) / 'x.jpg', quality=quality)
        with Image.open(Path(folder) / 'x.jpg') as file:
            return file.convert('L')


SOFT = {
    'blurred': cup(2),
    'slightly blurred': cup(0.5),
    'smaller': cup(0, (320, 180)),
    'larger': cup(0, (960, 540)),
    'of 64 colours': cup(2).convert('RGB').quantize(64),
    **{f'JPEG {quality}': through_jpeg(cup(), quality) for quality in (50, 75, 90, 100)},
}


@pytest.mark.parametrize('name', SOFT)
def test_soft_edges_are_no_objects(tmp_path, name):
    mask, frames = SOFT[name], tmp_path / 'frames'
    save(frames / '0.png', np.zeros((*mask.size[::-1], 3), np.uint8))
    mask.save(tmp_path / 'soft.png')
    found = len(object_ids(read_mask(tmp_path / 'soft.png')))
    told = rf'soft\.png: .* got {found}, .* smoothed edge.*--binarize 128$'
    with pytest.raises(ValueError, match=told):
        first_masks(tmp_path / 'soft.png', open_clip(frames))
    given = first_masks(tmp_path / 'soft.png', open_clip(frames), binarize=128)[0]
    sharp = torch.from_numpy(np.asarray(cup(0, mask.size)) >= 128)
    assert object_ids(given) == [1]
    assert ((given == 1) & sharp).sum() / ((given == 1) | sharp).sum() > 0.95


def scattered(*ids, side=1, step=6):
    "Small squares, one of each id."
    result = np.zeros(SIZE, np.uint8)
    for n, k in enumerate(ids):
        y, x = divmod(n * step, SIZE[1] - step)
        result[step * y + 1 :, x + 1 :][:side, :side] = k
    return result


LEGITIMATE = {
    'a dot': scattered(1),
    'four dots': scattered(3, 70, 128, 200),
    'many small objects': scattered(*range(10, 60), side=3),
    'dots among solid ones': np.maximum(
        scattered(9, 20, 31, 42, 53, 64), np.roll(scattered(*range(80, 90), side=3), 20, 0)
    ),
    'a rope': np.eye(*SIZE, dtype=np.uint8) * 5,
    'a rope beside void': np.maximum(np.eye(*SIZE, dtype=np.uint8), block(255, (25, 5))),
    'a bicycle and its rider': np.maximum(block(2), np.eye(*SIZE, 20, dtype=np.uint8)),
    'everything': np.full(SIZE, 7, np.uint8),
}


@pytest.mark.parametrize('name', LEGITIMATE)
def test_thin_and_small_objects_are_objects(tmp_path, clip, name):
    ids = LEGITIMATE[name]
    given = first_masks(save(tmp_path / 'mask.png', ids), clip)
    assert torch.equal(given[0], torch.from_numpy(ids).long())


@pytest.mark.parametrize(
    'ids, counts',
    [
        (np.maximum(block(255, side=15), scattered(128, side=2)), 'got 1, 1 of them'),
        (scattered(*range(10, 15)), 'got 5, 5 of them'),
        (np.maximum(scattered(*range(10, 17)), block(99, (25, 25))), 'got 8, 7 of them'),
    ],
)
def test_when_ids_are_taken_for_greys(tmp_path, clip, ids, counts):
    with pytest.raises(ValueError, match=rf'mask\.png: expected ids of objects, {counts}'):
        first_masks(save(tmp_path / 'mask.png', ids), clip)


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'RGBA', 'LA', '1', 'I;16'])
def test_any_picture_can_be_made_binary(tmp_path, clip, mode):
    grey = block(200)
    grey[:, 40:] = 100
    picture = Image.fromarray(grey)
    if mode == 'I;16':
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == '1':
        picture = picture.point(lambda value: 255 * (value >= 150)).convert('1')
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / 'x.png')
    found = first_masks(tmp_path / 'x.png', clip, binarize=150)[0]
    assert torch.equal(found, torch.from_numpy(grey == 200).long())
    if mode != '1':
        for least, pixels in ((200, 81), (201, 0), (100, 81 + 800), (101, 81)):
            if pixels:
                assert first_masks(tmp_path / 'x.png', clip, binarize=least)[0].sum() == pixels
            else:
                with pytest.raises(ValueError, match=r'got background .* \[0\]'):
                    first_masks(tmp_path / 'x.png', clip, binarize=least)


def test_a_compressed_mask_can_be_made_binary(tmp_path, clip):
    Image.fromarray(block(255, side=16)).save(tmp_path / 'x.jpg', quality=80)
    found = first_masks(tmp_path / 'x.jpg', clip, binarize=128)[0]
    assert (found.numpy() != block(1, side=16)).sum() <= 8


def test_no_mask_of_the_shared_data_is_taken_for_greys(data, tmp_path):
    "A sample of each kind; all 7,173 of them passed."
    places = [
        'DAVIS/Annotations/240p/*',
        'DAVIS/Annotations/480p/*',
        'DAVIS-2017/Annotations/*/*',
        'DAVIS/FirstFrames-2017/480p/*',
        'reference/stm-davis2017/bmx-trees',
    ]
    folders = [folder for place in places for folder in sorted(data.glob(place))]
    files = [sorted(folder.glob('*.png'))[0] for folder in folders]
    for place in sorted(data.glob('images/*/masks')):
        files += sorted(place.glob('*.png'))[::25]
    assert len(files) > 150
    for i, file in enumerate(files):
        ids = read_mask(file)
        save(tmp_path / str(i) / '0.png', np.zeros((*ids.shape, 3), np.uint8))
        assert torch.equal(first_masks(file, open_clip(tmp_path / str(i)))[0], ids), file


def test_what_is_written_is_read_back(tmp_path):
    ids = torch.tensor([[0, 1, VOID]])
    write_mask(tmp_path / 'x.png', ids)
    assert torch.equal(read_mask(tmp_path / 'x.png', is_binary([tmp_path / 'x.png'])), ids)


def test_the_command_names_the_way_out_of_a_soft_edge(tmp_path, clip, monkeypatch):
    soft = Image.fromarray(block(255, side=19)).filter(ImageFilter.GaussianBlur(2))
    soft.save(tmp_path / 'soft.png')
    mask, out = str(tmp_path / 'soft.png'), str(tmp_path / 'out')
    command = ['segment', str(clip.files[0].parent), mask, '--out', out]
    refused = invoke(command)
    assert refused.exit_code == 1 and '--binarize 128' in refused.stderr
    assert len(refused.stderr.splitlines()) == 1 and not (tmp_path / 'out').exists()
    taken = []
    monkeypatch.setattr(
        cli, 'write_results', lambda tracker, clip, given, out, watch: taken.append(given)
    )
    assert invoke([*command, '--binarize', '128']).exit_code == 0
    assert torch.equal(taken[0][0], torch.from_numpy(np.asarray(soft) >= 128).long())


# ---- masks of other programs


def encoded(mask):
    "COCO's compressed runs, after its C source: differences to the run before the last one."
    column = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(np.diff(column)).tolist()
    edges = [0, *edges, mask.size]
    counts, text = np.diff(edges).tolist(), ''
    for i, count in enumerate(counts):
        x, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            bits, x = x & 31, x >> 5
            more = x != (-1 if bits & 16 else 0)
            text += chr((bits | 32 * more) + 48)
    return counts, text


def written(path, data):
    path.write_text(json.dumps(data))
    return path


def coco(path, *segmentations, names=('00000.jpg',)):
    images = [dict(id=n, file_name=name, height=H, width=W) for n, name in enumerate(names)]
    parts = [dict(image_id=0, segmentation=segmentation) for segmentation in segmentations]
    return written(path, dict(images=images, annotations=parts))


def labelme(path, *shapes):
    keys = 'label', 'group_id', 'shape_type', 'points'
    shapes = [dict(zip(keys, shape)) for shape in shapes]
    return written(path, dict(imageHeight=H, imageWidth=W, shapes=shapes))


def inside(test):
    "Pixels whose centre passes a test of x and y."
    y, x = np.mgrid[:H, :W] + 0.5
    return torch.from_numpy(test(x, y))


@pytest.mark.parametrize('seed', range(8))
def test_coco_runs_compressed_or_not(tmp_path, clip, seed):
    random = np.random.default_rng(seed)
    mask = random.random((H, W)) < (0.001, 0.5, 0.999)[seed % 3]
    if seed >= 6:
        mask = np.zeros((H, W), bool)
        mask[:, seed:] = True
    for counts in encoded(mask):
        runs = dict(size=[H, W], counts=counts)
        ids = first_masks(coco(tmp_path / 'x.json', runs), clip)[0]
        assert np.array_equal(ids.numpy(), mask)


@pytest.mark.parametrize('counts', [[2**40], [-1, H * W + 1, 5], [], 'garbage~~~~'])
def test_runs_that_do_not_fill_the_picture_are_refused_at_once(tmp_path, clip, counts):
    file = coco(tmp_path / 'x.json', dict(size=[H, W], counts=counts))
    with pytest.raises(ValueError, match=r'x\.json: .* got -?\d+ pixels'):
        first_masks(file, clip)


def test_polygons_cover_the_pixels_whose_centres_lie_inside(tmp_path, clip):
    triangle, square = [2, 3, 30.5, 3, 2, 20], [10, 10, 20, 10, 20, 20, 10, 20]
    apart = [25.2, 14.6, 33.9, 14.6, 33.9, 18.4, 25.2, 18.4]
    ids = first_masks(coco(tmp_path / 'x.json', [triangle, apart], [square]), clip)[0]
    below = inside(lambda x, y: (x > 2) & (y > 3) & ((x - 2) / 28.5 + (y - 3) / 17 < 1))
    box = inside(lambda x, y: (x > 25.2) & (x < 33.9) & (y > 14.6) & (y < 18.4))
    over = inside(lambda x, y: (x > 10) & (x < 20) & (y > 10) & (y < 20))
    assert torch.equal(ids, torch.where(over, 2, (below | box).long()))


def test_shapes_of_labelme(tmp_path, clip):
    left = ['cup', None, 'polygon', [[1, 1], [9, 1], [9, 9], [1, 9]]]
    parts = [
        ['cat', 4, 'rectangle', [[20, 2], [12, 8]]],
        ['cat', 4, 'rectangle', [[12, 12], [20, 18]]],
    ]
    ids = first_masks(labelme(tmp_path / 'x.json', left, *parts), clip)[0]
    cat = inside(lambda x, y: (x > 12) & (x < 20) & ((y > 2) & (y < 8) | (y > 12) & (y < 18)))
    assert torch.equal(ids == 2, cat) and (ids == 1).sum() == 64 and ids[1:9, 1:9].all()


def test_what_json_leaves_open_is_refused(tmp_path, clip):
    cup = ['cup', None, 'rectangle', [[1, 1], [5, 5]]]
    dot = ['cup', None, 'point', [[1, 1]]]
    box, others = [[1, 1, 5, 1, 5, 5]], ('a.jpg', 'b.jpg')
    (tmp_path / 'nothing.json').touch()
    for said, file in {
        "two shapes 'cup': group_id says whether": labelme(tmp_path / 'twice.json', cup, cup),
        'a polygon or a rectangle, got a point': labelme(tmp_path / 'dot.json', dot),
        'one picture 00000, got 0 of 2': coco(tmp_path / 'others.json', box, names=others),
        'got 7 pixels': coco(tmp_path / 'short.json', dict(size=[H, W], counts=[3, 4])),
        'Expecting value': tmp_path / 'nothing.json',
        'neither shapes nor images': written(tmp_path / 'empty.json', {}),
        'expected the mask of an object': coco(tmp_path / 'nobody.json'),
    }.items():
        with pytest.raises(ValueError, match=said) as refusal:
            first_masks(file, clip)
        assert str(refusal.value).startswith(f'{file}: expected')
    named = coco(tmp_path / 'all.json', box, names=('00000.jpg', '00001.jpg'))
    assert object_ids(first_masks(named, clip)[0]) == [1]


def test_colours_of_davis_keep_their_ids_and_others_are_numbered(tmp_path, clip):
    ids = block(3) + block(8, (20, 20))
    davis = save(tmp_path / 'davis.png', PALETTE[torch.from_numpy(ids).long()].numpy(), np.uint8)
    assert np.array_equal(first_masks(davis, clip, colours=True)[0].numpy(), ids)
    with pytest.raises(ValueError, match='of mode RGB; --colours takes each of its colours'):
        first_masks(davis, clip)
    own = np.zeros((H, W, 3), np.uint8)
    own[ids == 3], own[ids == 8] = (250, 10, 10), (7, 200, 9)
    found = first_masks(save(tmp_path / 'own.png', own, np.uint8), clip, colours=True)[0]
    assert np.array_equal(found.numpy(), np.select([ids == 3, ids == 8], [2, 1]))
    own[ids == 0] = 255
    with pytest.raises(ValueError, match='own.png: expected black .* got 3 colours, black not'):
        first_masks(save(tmp_path / 'own.png', own, np.uint8), clip, colours=True)
    noise = np.random.default_rng(0).integers(0, 255, (H, W, 3))
    noisy = save(tmp_path / 'noise.png', noise, np.uint8)
    with pytest.raises(ValueError, match='noise.png: expected black and up to 31 colours'):
        first_masks(noisy, clip, colours=True)
    with pytest.raises(ValueError, match='got a PNG of mode RGB$'):
        first_masks(noisy, clip)


def test_resize_takes_masks_of_the_same_shape(tmp_path, clip):
    small = block(5)[::2, ::2]
    half = save(tmp_path / 'half.png', small, np.uint8)
    with pytest.raises(ValueError, match=r'half\.png: .* --resize scales it'):
        first_masks(half, clip)
    ids = first_masks(half, clip, resize=True)[0].numpy()
    assert np.array_equal(ids, small.repeat(2, 0).repeat(2, 1)), 'ids are not mixed'
    for resize in (True, False):
        with pytest.raises(ValueError, match=r'wide\.png: expected .*, got [^;]*$'):
            first_masks(save(tmp_path / 'wide.png', block(5)[::2], np.uint8), clip, resize=resize)
