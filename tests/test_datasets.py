"Data sets: what their folders say, what is missing, and what comes from elsewhere and means harm."

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from eosvos.datasets import Sequence, _image_set, davis, youtube_vos
from eosvos.fine_tuning import FineTuneConfig
from eosvos.follow import SegmentConfig, Tracker, follow
from eosvos.mask_rcnn import ImageConfig
from eosvos.tasks import TaskConfig, Tasks
from eosvos.video import Clip, object_ids, read_mask, write_mask

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rgb(size):
    "A picture of random pixels, (width, height)."
    return Image.fromarray(
        np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    )


def square(*objects, size=(12, 16)):
    "An id map with 3x3 pixels of each (id, row, column)."
    ids = torch.zeros(size, dtype=torch.int64)
    for k, y, x in objects:
        ids[y : y + 3, x : x + 3] = k
    return ids


# ---- DAVIS


@pytest.fixture
def tree(tmp_path):
    "DAVIS in small: two sequences of two frames."
    for name in ('goat', 'camel'):
        for place, suffix in (('JPEGImages', 'jpg'), ('Annotations', 'png')):
            (tmp_path / place / '480p' / name).mkdir(parents=True)
            for index in range(2):
                rgb((8, 6)).convert('L').save(
                    tmp_path / place / '480p' / name / f'{index:05d}.{suffix}'
                )
    (tmp_path / 'ImageSets' / '2016').mkdir(parents=True)
    (tmp_path / 'ImageSets' / '2017').mkdir()
    (tmp_path / 'ImageSets' / 'train.txt').write_text('goat\ncamel\n')
    (tmp_path / 'ImageSets' / '2016' / 'val.txt').write_text('goat\n')
    return tmp_path


def test_davis(tree):
    train = davis(tree, 'train')
    assert [s.name for s in train] == ['goat', 'camel'] and all(
        isinstance(s, Sequence) for s in train
    )
    assert [file.name for file in train[1].frames] == ['00000.jpg', '00001.jpg']
    assert train[1].masks[1] == tree / 'Annotations/480p/camel/00001.png'
    assert davis(tree, 'val', year=2016) == [replace(train[0], single=True)]
    assert (
        davis(tree, 'train', year=2016) == [replace(s, single=True) for s in train]
        and davis(tree, 'train', year=2017) == train
    )
    with pytest.raises(ValueError, match='2016 or 2017, got 2019'):
        davis(tree, 'train', year=2019)


def test_davis_says_what_is_missing(tree):
    with pytest.raises(ValueError, match=r"split 'test'.*2017/test\.txt"):
        davis(tree, 'test')
    with pytest.raises(ValueError, match='JPEGImages/240p/goat: cannot be listed: No such'):
        davis(tree, 'train', '240p')
    (tree / 'ImageSets/2017/val.txt').write_text('camel\n')
    assert davis(tree, 'val')[0].name == 'camel' and davis(tree, 'val', year=2016)[0].name == 'goat'
    (tree / 'Annotations/480p/camel/00001.png').unlink()
    with pytest.raises(
        ValueError, match='camel: 1 of 2 frames have no mask here, the first is 00001'
    ):
        davis(tree, 'train')
    (tree / 'JPEGImages/480p/goat/00000.jpg').unlink()
    with pytest.raises(
        ValueError, match=r'goat/00000\.png: this mask has no frame in .*\n.*camel: 1 of 2'
    ):
        davis(tree, 'train')  # both, at once


def test_no_more_than_ten_complaints(tree):
    (tree / 'ImageSets/2017/val.txt').write_text('\n'.join(f'gone{i}' for i in range(25)))
    with pytest.raises(ValueError, match='15 more sequences') as caught:
        davis(tree, 'val', year=2017)
    assert (
        len(str(caught.value).splitlines()) == 11
        and 'gone9' in str(caught.value)
        and 'gone10' not in str(caught.value)
    )


def test_davis_2016_lists_pairs_of_files(tree):
    (tree / 'ImageSets/480p').mkdir()
    lines = [
        f'/JPEGImages/480p/{name}/{i:05d}.jpg /Annotations/480p/{name}/{i:05d}.png '
        for name in ('goat', 'camel')
        for i in range(2)
    ]
    (tree / 'ImageSets/480p/trainval.txt').write_text('\n'.join(lines) + '\n')
    assert [(s.name, s.single) for s in davis(tree, 'trainval', year=2016)] == [
        ('goat', True),
        ('camel', True),
    ]
    (tree / 'ImageSets/480p/trainval.txt').write_text(
        '/JPEGImages/480p/../00000.jpg /Annotations/480p/../00000.png'
    )
    with pytest.raises(ValueError, match=r"trainval\.txt: expected a name .* got '\.\.'"):
        davis(tree, 'trainval', year=2016)


@pytest.mark.parametrize(
    'ids, one', [([0, 1, 3], [0, 1]), ([0, 255], [0, 1]), ([0, 2, 255], [0, 1, 255]), ([0], [0])]
)
def test_under_the_rules_of_2016_all_objects_are_one(tree, ids, one):
    "DAVIS 2016 stores 0 and 255, 2017 ids; with `single` both are 0 and 1, and void stays void."
    for i in range(2):
        Image.fromarray(np.resize(np.uint8(ids), (6, 8))).save(
            tree / f'Annotations/480p/goat/{i:05d}.png'
        )
    (sequence,) = davis(tree, 'val', year=2016)
    assert sequence.mask(0).unique().tolist() == one
    if 1 in one:
        assert sequence.ids == [1] and sequence.given()[0].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    'text',
    [
        '\ufeffgoat\ncamel\n',
        'goat\r\ncamel\r\n',
        '\ufeffgoat\r\n\r\ncamel',
        'goat \n\tcamel\u00a0\n',
        'goat\rcamel\r',
    ],
)
def test_lists_as_other_editors_write_them(tree, text):
    "A byte order mark, line ends of Windows and of old Macs, blanks behind a name."
    (tree / 'ImageSets/2017/val.txt').write_bytes(text.encode())
    assert [s.name for s in davis(tree, 'val', year=2017)] == ['goat', 'camel']


def test_a_test_set_has_the_first_mask_alone(tree):
    (tree / 'ImageSets/2017/test-dev.txt').write_text('goat\n')
    (tree / 'Annotations/480p/goat/00001.png').unlink()
    (sequence,) = davis(tree, 'test-dev')
    assert sequence.masks[1] is None and sequence.asked is None and not sequence.single
    with pytest.raises(ValueError, match=r'goat/00001\.jpg: the data set has no mask'):
        sequence.mask(1)
    (tree / 'Annotations/480p/goat/00000.png').rename(tree / 'Annotations/480p/goat/00001.png')
    with pytest.raises(ValueError, match='1 of 1 frames have no mask here, the first is 00000'):
        davis(tree, 'test-dev')


def test_nobody_in_the_first_mask(tree):
    for i, ids in enumerate([square(size=(6, 8)), square((4, 0, 0), (9, 3, 3), size=(6, 8))]):
        write_mask(tree / f'Annotations/480p/goat/{i:05d}.png', ids)
    sequence = davis(tree, 'train')[0]
    assert sequence.ids == [4, 9] and list(sequence.given()) == [1]
    write_mask(tree / 'Annotations/480p/goat/00001.png', square(size=(6, 8)))
    blank = r'goat/00000\.png: expected an object here or in a later mask .*, found none'
    with pytest.raises(ValueError, match=blank):
        sequence.given()
    with pytest.warns(UserWarning, match=f'{blank}; left out$'):
        assert sequence.ids == []


def test_a_mask_of_another_size(tree):
    write_mask(tree / 'Annotations/480p/goat/00000.png', square())
    with pytest.raises(ValueError, match=r'goat/00000\.png: expected 8x6 .* got 16x12'):
        davis(tree, 'train')[0].mask(0)


def test_a_sequence_is_a_clip(tree):
    sequence = davis(tree, 'train')[0]
    clip = replace(sequence, frames=sequence.frames[::-1]).clip()
    assert (
        isinstance(clip, Clip)
        and clip.names == ['00001', '00000']
        and len(clip) == 2
        and clip.size == (6, 8)
    )
    assert torch.equal(clip[0], sequence.image(1))


# ---- YouTube-VOS: objects that appear later

FRAMES = [f'{5 * i:05d}' for i in range(4)]
NAME = '9a00010e'  # holds the digits of a frame
OBJECTS = {
    '10': {'category': 'cat', 'frames': FRAMES[2:]},
    '2': {'category': 'cup', 'frames': FRAMES},
    '7': {'category': 'owl', 'frames': FRAMES[3:]},
}
FILES = {
    0: square((2, 0, 0)),
    2: square((2, 1, 1), (10, 5, 5)),
    3: square((7, 8, 8)),
}  # 10 with the earlier object in its file, 7 without


def make_youtube(root, split='valid', name=NAME, objects=OBJECTS, files=FILES, frames=FRAMES):
    "In the layout of YouTube-VOS: an object at once, one later, one at last, ids with gaps."
    for place in ('JPEGImages', 'Annotations'):
        (root / split / place / name).mkdir(parents=True)
    for frame in frames:
        rgb((16, 12)).save(root / split / 'JPEGImages' / name / f'{frame}.jpg')
    for i, ids in files.items():
        write_mask(root / split / 'Annotations' / name / f'{frames[i]}.png', ids)
    (root / split / 'meta.json').write_text(json.dumps({'videos': {name: {'objects': objects}}}))
    return root


def test_a_meta_json_with_a_byte_order_mark(tmp_path):
    file = make_youtube(tmp_path) / 'valid/meta.json'
    file.write_text(file.read_text(), 'utf-8-sig')
    assert youtube_vos(tmp_path, 'valid')[0].ids == [2, 7, 10]


def test_objects_that_appear_later(tmp_path):
    (sequence,) = youtube_vos(make_youtube(tmp_path), 'valid')
    assert sequence.ids == [2, 7, 10] and sequence.starts == ((2, 0), (7, 3), (10, 2))
    assert sequence.asked == (0, 1, 2, 3)
    found = sequence.given()
    assert list(found) == [0, 2, 3]
    assert (
        torch.equal(found[0], square((2, 0, 0)))
        and torch.equal(found[2], square((10, 5, 5)))
        and torch.equal(found[3], square((7, 8, 8)))
    )


def test_where_the_released_code_is_wrong(tmp_path):
    """The facts of its reader: ids sorted as text and replaced by their number; the start mask from
    the sequence's first annotation;
    the frame of an object found by substring. Ours differs from each of them on the same files."""
    (sequence,) = youtube_vos(make_youtube(tmp_path), 'valid')
    files = sorted((tmp_path / 'valid/Annotations' / NAME).iterdir())
    as_text = sorted(OBJECTS)
    assert (
        as_text == ['10', '2', '7'] != [str(k) for k in sequence.ids]
    )  # 10 would be saved as 1, 2 as 2, 7 as 3
    start = {k: int((read_mask(files[0]) == int(k)).sum()) for k in as_text}
    assert start == {'10': 0, '2': 9, '7': 0}  # 10 and 7 would start from nothing
    by_substring = next(file for file in files if OBJECTS['10']['frames'][0] in str(file))
    assert by_substring.stem == '00000' and 10 not in object_ids(
        read_mask(by_substring)
    )  # the name of the sequence matches
    assert {
        k: int((ids == k).sum()) for ids in sequence.given().values() for k in object_ids(ids)
    } == {2: 9, 10: 9, 7: 9}


class Blind(nn.Module):
    "Finds nothing, so that results hold what is given and no more."

    image_config = ImageConfig(12, 16)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images, targets=None, extra_boxes=None, generator=None, choose=None):
        return [
            dict(
                boxes=torch.zeros(0, 4),
                scores=torch.zeros(0),
                masks=torch.zeros(0, *images[0].shape[1:]),
            )
        ]


def test_segment_takes_what_is_given(tmp_path):
    "An object in the last frame included, which has no frame left to be followed in."
    (sequence,) = youtube_vos(make_youtube(tmp_path), 'valid')
    found = dict(
        follow(
            Tracker(Blind(), 1e-3, SegmentConfig(FineTuneConfig(iterations=0), extra_boxes=2)),
            sequence.clip(),
            sequence.given(),
        )
    )
    assert sorted(found) == [0, 1, 2, 3] and not found[1].any()
    assert all(torch.equal(found[i], ids) for i, ids in sequence.given().items())


def test_all_frames(tmp_path):
    "Masks and what is asked for come from the plain split; without it, from the folder itself."
    make_youtube(tmp_path)
    dense = tmp_path / 'valid_all_frames'
    (dense / 'JPEGImages' / NAME).mkdir(parents=True)
    for i in range(18):
        rgb((16, 12)).save(dense / 'JPEGImages' / NAME / f'{i:05d}.jpg')
    (sequence,) = youtube_vos(tmp_path, 'valid_all_frames')
    assert (
        len(sequence.frames) == 18
        and sequence.asked == (0, 5, 10, 15)
        and list(sequence.given()) == [0, 10, 15]
    )
    (tmp_path / 'valid/Annotations').rename(dense / 'Annotations')
    (tmp_path / 'valid/meta.json').rename(dense / 'meta.json')
    (again,) = youtube_vos(tmp_path, 'valid_all_frames')
    assert (
        again.starts == sequence.starts and again.masks[10].parent == dense / 'Annotations' / NAME
    )


def test_the_test_split_lists_frames_alone(tmp_path):
    objects = {'3': FRAMES[1:], '11': FRAMES[2:3], '5': []}
    (sequence,) = youtube_vos(
        make_youtube(
            tmp_path, 'test', objects=objects, files={1: square((3, 0, 0)), 2: square((11, 4, 4))}
        ),
        'test',
    )
    assert sequence.starts == ((3, 1), (11, 2)) and sequence.asked == (1, 2, 3)


def test_the_training_split_asks_for_nothing(tmp_path):
    (sequence,) = youtube_vos(make_youtube(tmp_path, 'train'), 'train')
    assert sequence.asked is None and sequence.masks[1] is None


def test_an_object_whose_list_is_a_frame_early(tmp_path):
    files = {
        0: square((2, 0, 0)),
        1: square((2, 0, 0)),
        2: square((10, 5, 5)),
        3: square((7, 8, 8)),
    }
    objects = OBJECTS | {'10': {'category': 'cat', 'frames': FRAMES[1:]}}
    (sequence,) = youtube_vos(make_youtube(tmp_path, objects=objects, files=files), 'valid')
    assert sequence.starts == ((2, 0), (7, 3), (10, 1)) and list(sequence.given()) == [0, 2, 3]
    write_mask(sequence.masks[2], square())
    with pytest.raises(
        ValueError, match=r'00005\.png: expected object 10 here or in a later mask of the sequence'
    ):
        sequence.given()


def test_sequences_in_the_order_of_meta_json(tmp_path):
    make_youtube(tmp_path)
    videos = {name: {'objects': OBJECTS} for name in (NAME, 'bb', 'aa')}
    for name in ('aa', 'bb'):
        for place in ('JPEGImages', 'Annotations'):
            (tmp_path / 'valid' / place / name).symlink_to(tmp_path / 'valid' / place / NAME)
    (tmp_path / 'valid/meta.json').write_text(json.dumps({'videos': videos}))
    assert [s.name for s in youtube_vos(tmp_path, 'valid')] == [NAME, 'bb', 'aa']


def test_youtube_vos_says_what_is_missing(tmp_path):
    make_youtube(tmp_path)
    with pytest.raises(ValueError, match=r'tset/meta\.json: cannot be read'):
        youtube_vos(tmp_path, 'tset')
    (tmp_path / f'valid/Annotations/{NAME}/00010.png').rename(tmp_path / 'aside.png')
    with pytest.raises(
        ValueError, match=f'{NAME}: no mask for 00010, where meta.json says that object 10 starts'
    ):
        youtube_vos(tmp_path, 'valid')
    (tmp_path / f'valid/JPEGImages/{NAME}/00005.jpg').unlink()
    with pytest.raises(
        ValueError, match=f"{NAME}: meta.json names for object 2 what is no frame: '00005'"
    ):
        youtube_vos(tmp_path, 'valid')


# ---- plain folders, still images


def test_image_set(tmp_path):
    for place, suffix in (('images', 'jpg'), ('masks', 'png')):
        (tmp_path / place).mkdir()
        for name in ('a', 'b'):
            rgb((8, 6)).convert('L').save(tmp_path / place / f'{name}.{suffix}')
    assert [(s.name, s.frames[0].name, s.masks[0].name) for s in _image_set(tmp_path)] == [
        ('a', 'a.jpg', 'a.png'),
        ('b', 'b.jpg', 'b.png'),
    ]
    (tmp_path / 'masks/b.png').unlink()
    with pytest.raises(ValueError, match='the first is b'):
        _image_set(tmp_path)
    with pytest.raises(ValueError, match='images: cannot be listed: No such'):
        _image_set(tmp_path / 'masks')


def test_a_picture_without_an_object_is_named_and_left_out(tmp_path):
    masks = dict(a=square((1, 0, 0)), blank=square(), c=square((2, 5, 5), (9, 0, 0)))
    for name, ids in masks.items():
        for place in ('images', 'masks'):
            (tmp_path / place).mkdir(exist_ok=True)
        rgb((16, 12)).save(tmp_path / 'images' / f'{name}.jpg')
        write_mask(tmp_path / 'masks' / f'{name}.png', ids)
    stills, config = _image_set(tmp_path), TaskConfig(set_weights=(('made', 1),))
    blank = r'masks/blank\.png: expected an object'
    with pytest.warns(UserWarning, match=f'{blank} .*; left out$') as warned:
        tasks = Tasks(dict(made=stills), config)
    assert [(s.name, k) for s, k in tasks.objects['made']] == [('a', 1), ('c', 2), ('c', 9)]
    assert len(warned) == 1
    none = pytest.raises(ValueError, match='expected objects in made, found none')
    with pytest.warns(UserWarning), none:
        Tasks(dict(made=stills[1:2]), config)
    with pytest.raises(ValueError, match=blank):
        stills[1].given()


def test_no_picture_is_opened_to_list_a_data_set(tmp_path, tree, monkeypatch):
    make_youtube(tmp_path)

    def refuse(*_):
        raise AssertionError('a picture was opened')

    monkeypatch.setattr(Image, 'open', refuse)
    (sequence,) = youtube_vos(tmp_path, 'valid')
    assert sequence.ids == [2, 7, 10] and len(davis(tree, 'train')) == 2
    with pytest.raises(ValueError, match='a picture was opened'):
        sequence.mask(0)


# ---- what comes from elsewhere


@contextmanager
def refused(*names):
    "Let through what is well; a ValueError must name one of the files, and can be printed."
    try:
        yield
    except ValueError as error:
        assert any(name in str(error) for name in names), f'{error} names none of {names}'
        str(error).encode()


def stays_inside(name):
    "Whether results of this name are written into the folder that they are meant for, and can be."
    with TemporaryDirectory() as folder:
        out = Path(folder) / 'out'
        (out / name).mkdir(parents=True)
        return os.listdir(folder) == ['out'] and os.listdir(out) == [name]


evil = st.sampled_from(
    [
        '..',
        '.',
        '',
        '../x',
        '/etc',
        'a/../../x',
        'a/b',
        'a\0b',
        '\udcff',
        '~',
        'a b',
        '-rf',
        'é',
        'a\nb',
        'x' * 300,
        'goat',
        'C:x',
    ]
)
names = st.one_of(evil, st.text(max_size=8))


@quick
@given(lines=st.lists(names, max_size=3))
def test_lists_of_names(lines):
    with TemporaryDirectory() as root:
        root, text = Path(root), '\n'.join(lines)
        (root / 'ImageSets').mkdir()
        (root / 'ImageSets/val.txt').write_bytes(
            text.encode('utf-8', 'surrogateescape' if '\udcff' in text else 'surrogatepass')
        )
        for name in lines:  # those that can stand there do
            for place, suffix in (('JPEGImages', 'jpg'), ('Annotations', 'png')):
                try:
                    (root / place / '480p' / name.strip()).mkdir(parents=True)
                    (root / place / '480p' / name.strip() / f'0.{suffix}').touch()
                except (OSError, ValueError):
                    pass  # no name of a folder
        with refused('val.txt', 'JPEGImages', 'Annotations'):
            assert all(stays_inside(s.name) for s in davis(root, 'val'))


@quick
@given(content=st.binary(max_size=60))
def test_lists_of_any_bytes(content):
    with TemporaryDirectory() as root:
        (Path(root) / 'ImageSets').mkdir()
        (Path(root) / 'ImageSets/val.txt').write_bytes(content)
        with pytest.raises(ValueError, match=r'val\.txt|JPEGImages') as caught:
            davis(root, 'val')
        str(caught.value).encode()


keys = st.one_of(
    names,
    st.sampled_from(
        [
            'videos',
            'objects',
            'frames',
            'category',
            '1',
            '2',
            '10',
            '0',
            '-1',
            '255',
            '01',
            '1' * 5000,
            '٣',
            NAME,
            *FRAMES,
        ]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), keys),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)
entries = st.one_of(
    values,
    st.fixed_dictionaries(
        {
            'category': values,
            'frames': st.lists(st.one_of(st.sampled_from(FRAMES), values), max_size=4),
        }
    ),
)
ids = st.one_of(st.sampled_from(['2', '7', '10']), keys)
videos = st.dictionaries(
    st.one_of(st.just(NAME), names),
    st.fixed_dictionaries({'objects': st.dictionaries(ids, entries, max_size=3)}),
    max_size=2,
)
metas = st.one_of(values, st.fixed_dictionaries({'videos': st.one_of(values, videos)}))


@pytest.mark.parametrize(
    'meta, reason',
    [
        ([], '}}: list indices'),
        ({}, "}}: 'videos'"),
        ({'videos': {}}, 'expected sequences in "videos"'),
        ({'videos': {'../x': {}}}, "one part of a path, in UTF-8, got '../x'"),
        ({'videos': {'/etc': {}}}, "got '/etc'"),
        ({'videos': {NAME: 3}}, f"in sequence '{NAME}': 'int' object"),
        ({'videos': {NAME: {}}}, "'objects'"),
        ({'videos': {NAME: {'objects': {}}}}, 'expected an object'),
        ({'videos': {NAME: {'objects': {'1': {'frames': []}}}}}, 'expected an object'),
        (
            {'videos': {NAME: {'objects': {'1': {}}}}},
            f"in object '1' of sequence '{NAME}': 'frames'",
        ),
        *[
            ({'videos': {NAME: {'objects': {k: FRAMES}}}}, 'expected ids from 1 to 254')
            for k in ('0', '255', '1000', '01', '-1', '1.0', ' 1', '٣', 'x', '', '1' * 5000)
        ],
    ],
)
def test_a_meta_json_of_another_form(tmp_path, meta, reason):
    make_youtube(tmp_path)
    (tmp_path / 'valid/meta.json').write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r'meta\.json: cannot be read as ') as caught:
        youtube_vos(tmp_path, 'valid')
    assert reason in str(caught.value)


@pytest.fixture(scope='module')
def late(tmp_path_factory):
    return make_youtube(tmp_path_factory.mktemp('late'))


def survives(root):
    "Read the data set and all that it gives."
    with refused('meta.json', 'JPEGImages', 'Annotations'):
        for sequence in youtube_vos(root, 'valid'):
            assert (
                stays_inside(sequence.name)
                and sequence.ids
                and all(0 < k < 255 for k in sequence.ids)
            )
            assert set(sequence.given()) <= set(sequence.asked)


@settings(quick, max_examples=400)
@given(meta=metas)
def test_any_meta_json(late, meta):
    (late / 'valid/meta.json').write_text(json.dumps(meta))
    survives(late)


@settings(quick, max_examples=100)
@given(
    content=st.one_of(
        st.binary(max_size=40),
        st.just(b'[' * 100_000),
        st.just(b'{"videos":' * 50_000),
        st.just(b'\xff\xfe{}'),
        st.just(b'9' * 5000),
    )
)
def test_a_meta_json_of_any_bytes(late, content):
    (late / 'valid/meta.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'meta\.json'):
        youtube_vos(late, 'valid')


@settings(quick, max_examples=100)
@given(
    cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_meta_json(late, cut, changes):
    content = bytearray(json.dumps({'videos': {NAME: {'objects': OBJECTS}}}).encode())
    for place, value in changes:
        content[place % len(content)] = value
    (late / 'valid/meta.json').write_bytes(content[:cut] if cut % 2 else content)
    survives(late)


@quick
@given(
    cut=st.integers(0, 90),
    changes=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4),
    mask=st.booleans(),
)
def test_damaged_pictures(tmp_path_factory, cut, changes, mask):
    root = make_youtube(tmp_path_factory.mktemp('damaged'))
    file = sorted((root / 'valid' / ('Annotations' if mask else 'JPEGImages') / NAME).iterdir())[0]
    content = bytearray(file.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    file.write_bytes(content[:cut] if cut % 2 else content)
    (sequence,) = youtube_vos(root, 'valid')
    for read in (sequence.given, lambda: sequence.image(0), lambda: sequence.clip()[0]):
        with refused(*(path.name for path in [*sequence.frames, *filter(None, sequence.masks)])):
            read()


# ---- the shared data


def test_shared_data(data):
    train, val = davis(data / 'DAVIS', 'train', '240p'), davis(data / 'DAVIS', 'val10', '480p')
    assert (len(train), sum(len(s.frames) for s in train)) == (30, 2079)
    assert (len(val), sum(len(s.frames) for s in val)) == (10, 760)
    assert len(_image_set(data / 'images' / 'pennfudan')) == 170
    assert all(s.ids == [1] for s in val)
