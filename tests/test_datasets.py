"Data sets: what their folders say, and precisely what is missing."
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eosvos.datasets import Sequence, davis, image_set


def rgb(size):
    "A picture of random pixels, (width, height)."
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def tree(tmp_path):
    "DAVIS in small: two sequences of two frames."
    for name in ('goat', 'camel'):
        for place, suffix in (('JPEGImages', 'jpg'), ('Annotations', 'png')):
            (tmp_path / place / '480p' / name).mkdir(parents=True)
            for index in range(2): rgb((8, 6)).convert('L').save(tmp_path / place / '480p' / name / f'{index:05d}.{suffix}')
    (tmp_path / 'ImageSets' / '2016').mkdir(parents=True)
    (tmp_path / 'ImageSets' / '2017').mkdir()
    (tmp_path / 'ImageSets' / 'train.txt').write_text('goat\ncamel\n')
    (tmp_path / 'ImageSets' / '2016' / 'val.txt').write_text('goat\n')
    return tmp_path


def test_davis(tree):
    train = davis(tree, 'train')
    assert [s.name for s in train] == ['goat', 'camel'] and all(isinstance(s, Sequence) for s in train)
    assert [file.name for file in train[1].frames] == ['00000.jpg', '00001.jpg']
    assert train[1].masks[1] == tree / 'Annotations/480p/camel/00001.png'
    assert davis(tree, 'val') == davis(tree, '2016/val') == davis(tree, 'val', year=2016) == [replace(train[0], single=True)]


def test_davis_says_what_is_missing(tree):
    with pytest.raises(ValueError, match=r"split 'test'.*2017/test\.txt"): davis(tree, 'test')
    with pytest.raises(ValueError, match='JPEGImages/240p/goat: no such folder'): davis(tree, 'train', '240p')
    (tree / 'ImageSets/2017/val.txt').write_text('camel\n')
    with pytest.raises(ValueError, match='say 2016/val or 2017/val'): davis(tree, 'val')
    assert davis(tree, '2017/val')[0].name == 'camel'
    (tree / 'Annotations/480p/camel/00001.png').unlink()
    with pytest.raises(ValueError, match='camel: 1 of 2 frames have no mask here, the first is 00001'): davis(tree, 'train')


def test_image_set(tmp_path):
    for place, suffix in (('images', 'jpg'), ('masks', 'png')):
        (tmp_path / place).mkdir()
        for name in ('a', 'b'): rgb((8, 6)).convert('L').save(tmp_path / place / f'{name}.{suffix}')
    assert [(s.name, s.frames[0].name, s.masks[0].name) for s in image_set(tmp_path)] == [('a', 'a.jpg', 'a.png'), ('b', 'b.jpg', 'b.png')]
    (tmp_path / 'masks/b.png').unlink()
    with pytest.raises(ValueError, match='the first is b'): image_set(tmp_path)
    with pytest.raises(ValueError, match='images: no such folder'): image_set(tmp_path / 'masks')


def test_shared_data(data):
    train, val = davis(data / 'DAVIS', 'train', '240p'), davis(data / 'DAVIS', 'val10', '480p')
    assert (len(train), sum(len(s.frames) for s in train)) == (30, 2079)
    assert (len(val), sum(len(s.frames) for s in val)) == (10, 760)
    assert len(image_set(data / 'images' / 'pennfudan')) == 170
