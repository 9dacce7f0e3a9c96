"The layout of the study, made from archives like the public ones."

import csv
import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eosvos.datasets import _image_set, davis, training_sets
from eosvos.video import read_image, read_mask

SCRIPTS = Path(__file__).resolve().parent.parent / 'data_scripts'


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script, get_data, instances = map(load, ('lay_out', 'get_data', 'make_instance_test'))
ROW = next(csv.DictReader(instances.LIST.open()))
TRAIN = ['bear', ROW['base'], ROW['guest']]
PATTERN = np.zeros((480, 854, 3), np.uint8)  # a chessboard of single pixels beside red
PATTERN[:, :427] = 255 * (np.indices((480, 427)).sum(0) % 2)[..., None]
PATTERN[:, 427:, 0] = 200
IDS = np.zeros((480, 854), np.uint8)
IDS[100:300, 200:401], IDS[300:400, 600:700] = 1, 2  # 401: half a pixel of the small mask


def save(path, pixels, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **more)


def add(root, names, ids, scale=1, frames=2):
    for name in names:
        for i in range(frames):
            at = np.s_[::scale, ::scale]
            save(root / f'JPEGImages/480p/{name}/{i:05d}.jpg', PATTERN[at], quality=100)
            save(root / f'Annotations/480p/{name}/{i:05d}.png', ids[at])


def write_lists(root, place, lists, line):
    folder = root / 'ImageSets' / place
    folder.mkdir(parents=True)
    for split, names in lists.items():
        lines = [line.format(name=name, i=i) for name in names for i in range(2 * ('{i' in line))]
        (folder / f'{split}.txt').write_text('\n'.join(lines or names) + '\n')


@pytest.fixture(scope='module')
def trees(tmp_path_factory):  # -> the two trees, unpacked from archives in the layout of the public
    roots, white = [], np.where(IDS > 0, 255, 0).astype(np.uint8)
    for year in ('2016', '2017'):
        folder = tmp_path_factory.mktemp(year)
        root = folder / 'archive/DAVIS'
        if year == '2016':
            add(root, TRAIN, white)
            add(root, script.VAL10, white, scale=40)
            four = np.dstack([white, white, white, np.full_like(white, 255)])
            save(root / 'Annotations/480p/bear/00001.png', four)  # as bear/00077 of the real one
            pair = '/JPEGImages/480p/{name}/{i:05d}.jpg /Annotations/480p/{name}/{i:05d}.png '
            write_lists(root, '480p', dict(train=TRAIN, val=script.VAL10), pair)
        else:
            train, val = [*script.APART[::-1], 'boxing'], ['bike-packing', *script.FIRST]
            add(root, script.APART, IDS)
            add(root, ['boxing', *val], IDS, scale=40)
            write_lists(root, '2017', dict(train=train, val=val), '{name}')
        with zipfile.ZipFile(folder / 'x.zip', 'w') as archive:
            for path in sorted(root.rglob('*')):
                archive.write(path, path.relative_to(root.parent))
        get_data.unpack(folder / 'x.zip', folder / 'tree')
        roots.append(folder / 'tree')
    return roots


def lay_davis(trees, out):
    old, new = map(str, trees)
    script.main(['davis', '--davis-2016', old, '--davis-2017', new, '--out', str(out)])


@pytest.fixture(scope='module')
def laid(trees, tmp_path_factory):
    out = tmp_path_factory.mktemp('laid') / 'study'
    lay_davis(trees, out)
    return out


def files(folder):  # -> {path: (bytes, time of writing)}
    paths = [path for path in folder.rglob('*') if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in paths
    }


def contents(folder):
    return {name: content for name, (content, _) in files(folder).items()}


def small(ids):  # the ids of `IDS` in half the size
    found = torch.zeros(240, 427, dtype=torch.int64)
    found[50:150, 100:200], found[150:200, 300:350] = 1, ids
    return found


def test_frames_to_train_on(laid):
    sets = training_sets(laid, ['davis', 'davis-2017@240p'])
    assert [s.name for s in sets['davis']] == TRAIN
    assert [s.name for s in sets['davis-2017@240p']] == script.APART
    for name, second in (('davis', 1), ('davis-2017@240p', 2)):
        for sequence in sets[name]:
            assert [file.name for file in sequence.frames] == ['00000.jpg', '00001.jpg']
            for i in range(2):
                assert torch.equal(sequence.mask(i), small(second))
        image = sequence.image(1)
        assert image.shape == (3, 240, 427)
        assert (image[:, 5:-5, 5:205] - 0.5).abs().max() < 0.06, 'grey: averaged, not picked'
        red = torch.tensor([200 / 255, 0, 0])[:, None, None]
        assert (image[:, :, 220:] - red).abs().max() < 0.03


def test_what_is_measured(laid, trees):
    val = davis(laid / 'DAVIS', 'val10', year=2016)
    assert [s.name for s in val] == script.VAL10
    sources = {s.name: s for s in davis(trees[0], 'val', year=2016)}
    for sequence in val:
        for ours, theirs in zip(
            sequence.frames + sequence.masks,
            sources[sequence.name].frames + sources[sequence.name].masks,
            strict=True,
        ):
            assert ours.read_bytes() == theirs.read_bytes()
    assert read_mask(laid / 'DAVIS/Annotations-2017/480p/bmx-trees/00001.png').max() == 2
    first = sorted((laid / 'DAVIS/FirstFrames-2017/480p').rglob('*.png'))
    assert [file.parent.name for file in first] == script.FIRST
    assert read_mask(first[2]).unique().tolist() == [0, 1, 2]


def test_the_instance_test_is_made_from_it(laid, tmp_path, monkeypatch):
    with (tmp_path / 'list.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, instances.COLUMNS)
        writer.writeheader()
        writer.writerow(ROW | dict(frames='2'))
    monkeypatch.setattr(instances, 'LIST', tmp_path / 'list.csv')
    instances.make(laid, tmp_path / 'set')
    made, real = davis(tmp_path / 'set', 'val')
    assert (made.name, real.name) == (ROW['name'], 'bmx-trees') and real.ids == [1, 2]
    ids = made.mask(1)
    assert made.ids == [1, 2] and len(made.frames) == 2 and ids.shape == (240, 427)
    assert ((ids == 1) == (small(1) == 1) & (ids != 2)).all(), 'the base, but for the guest'


def test_nothing_is_written_twice_and_what_is_missing_is(laid, trees, capsys):
    before = files(laid)
    lists = {name for name in before if name.endswith('.txt')}
    lay_davis(trees, laid)
    after, said = files(laid), capsys.readouterr().out
    assert {name: before[name] for name in before.keys() - lists} == {
        name: after[name] for name in after.keys() - lists
    }
    assert said.count('2 of 2, 0 written now') == 7 and 'make_instance_test.py' in said
    (laid / 'DAVIS/JPEGImages/240p/bear/00001.jpg').unlink()
    (laid / 'DAVIS-2017/Annotations/240p/surf/00000.png').unlink()
    lay_davis(trees, laid)
    said = capsys.readouterr().out
    assert said.count(' 0 written now') == 5 and said.count(' 1 written now') == 2
    assert contents(laid) == {name: content for name, (content, _) in before.items()}


def test_an_interrupted_call_goes_on(laid, trees, tmp_path, monkeypatch):
    true, calls = Image.Image.save, []

    def stop(self, *arguments, **more):
        calls.append(self)
        true(self, *arguments, **more)  # the file is filled, and not named yet
        if len(calls) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, 'save', stop)
        lay_davis(trees, tmp_path)
    whole, part = contents(laid), contents(tmp_path)
    assert len(part) == 7 and part.items() <= whole.items()
    assert not (tmp_path / 'DAVIS/ImageSets/train.txt').exists(), 'it is not taken for complete'
    lay_davis(trees, tmp_path)
    assert contents(tmp_path) == whole


def test_links_follow_a_tree_that_moved(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    script.link(tmp_path / 'out/x', tmp_path / 'a')
    script.link(tmp_path / 'out/x', tmp_path / 'b')
    assert (tmp_path / 'out/x').resolve() == tmp_path / 'b'
    (tmp_path / 'out/y').mkdir()
    script.link(tmp_path / 'out/y', tmp_path / 'b')
    assert not (tmp_path / 'out/y').is_symlink(), 'a copy stays'


def test_sequences_that_are_missing_are_named(trees, tmp_path):
    old, new = trees
    (tmp_path / 'x/ImageSets/2017').mkdir(parents=True)
    for place in ('JPEGImages', 'Annotations'):
        (tmp_path / 'x' / place).symlink_to(new / place)
    (tmp_path / 'x/ImageSets/2017/train.txt').write_text('surf\nboxing\n')
    with pytest.raises(ValueError, match='x: its list of 2 sequences lacks walking, snow'):
        lay_davis((old, tmp_path / 'x'), tmp_path / 'out')
    with pytest.raises(ValueError, match=f"{new}: no list of sequences for split 'train' of 2016"):
        lay_davis((new, new), tmp_path / 'out')
    assert not (tmp_path / 'out').exists(), 'lists are looked at before anything is written'


def test_a_mask_of_another_size_is_named(tmp_path):
    add(tmp_path, ['bear'], IDS, scale=40)
    save(tmp_path / 'Annotations/480p/bear/00001.png', IDS[::40, ::20])
    write_lists(tmp_path, '2016', dict(train=['bear']), '{name}')
    (bear,) = davis(tmp_path, 'train', year=2016)
    with pytest.raises(ValueError, match=r'bear/00001.png: .*\(12, 22\) .*got \(12, 43\)'):
        script.read_frame(bear, 1)


def test_the_names_are_those_of_the_shared_data(data):
    names = (data / 'DAVIS/ImageSets/val10.txt').read_text().split()
    apart = (data / 'DAVIS-2017/ImageSets/2017/train.txt').read_text().split()
    first = os.listdir(data / 'DAVIS/FirstFrames-2017/480p')
    assert (names, apart, sorted(first)) == (script.VAL10, script.APART, script.FIRST)


# ---- still pictures


def lay_stills(root, *more):
    places = [str(root / name) for name in ('pictures', 'truth')]
    out = str(root / 'out/images/ecssd')
    script.main(['stills', '--images', places[0], '--masks', places[1], '--out', out, *more])
    return root / 'out'


def add_still(root, name, ids, mask=None, height=480, width=854):
    save(root / 'pictures' / f'{name}.jpg', PATTERN[:height, :width], quality=100)
    save(root / 'truth' / (mask or f'{name}.png'), ids[:height, :width])


def test_stills(tmp_path, capsys):
    white, gaps = np.where(IDS == 1, 255, 0).astype(np.uint8), IDS * 7
    add_still(tmp_path, '0001', white)
    add_still(tmp_path, '0002', gaps, '0002_mask.png', height=479, width=101)
    add_still(tmp_path, '0003', np.ones_like(IDS), height=60, width=90)
    for name in ('blackswan_00001', 'goat'):
        add_still(tmp_path, name, white)
    gaps[:30, :50] = 7
    save(tmp_path / 'truth/0002_mask.png', gaps[:479, :101])
    out = lay_stills(tmp_path)
    said = capsys.readouterr().out
    assert '2 frames of DAVIS validation are left out' in said and '3 of 3, 3 written' in said
    assert sorted(os.listdir(out / 'images/ecssd/masks')) == ['0001.png', '0002.png', '0003.png']
    (sets,) = training_sets(out, ['ecssd']).values()
    assert [s.name for s in sets] == ['0001', '0002', '0003']
    assert [tuple(s.image(0).shape[1:]) for s in sets] == [(180, 320), (320, 67), (60, 90)]
    assert sets[0].ids == [1]
    with Image.open(sets[0].masks[0]) as file:
        assert sorted(np.unique(file)) == [0, 1]
    share = (sets[0].mask(0) == 1).sum() / (320 * 180)
    assert share == pytest.approx((IDS == 1).mean(), abs=0.002)
    assert sets[1].ids == [7] and sets[2].ids == [1] and (sets[2].mask(0) == 1).all()
    exact = torch.from_numpy(PATTERN[:60, :90]).permute(2, 0, 1) / 255
    assert (read_image(sets[2].frames[0]) - exact).abs().mean() < 0.05, 'never enlarged'


def test_stills_are_not_written_twice(tmp_path, capsys):
    for name in 'ab':
        add_still(tmp_path, name, IDS, height=300)
    before = files(lay_stills(tmp_path))
    assert len(before) == 4 and files(lay_stills(tmp_path)) == before
    assert '2 of 2, 0 written now' in capsys.readouterr().out
    assert _image_set(tmp_path / 'out/images/ecssd')[0].ids == [1]


def test_greys_and_jpegs_want_a_threshold(tmp_path):
    soft = np.zeros((60, 90), np.uint8)
    soft[20:40, 20:60] = np.linspace(60, 250, 40).astype(np.uint8)
    add_still(tmp_path, 'a', soft, 'a.jpg', height=60, width=90)
    with pytest.raises(ValueError, match=r'truth/a.jpg: expected a mask with one channel'):
        lay_stills(tmp_path)
    (tmp_path / 'truth/a.jpg').unlink()
    save(tmp_path / 'truth/a.png', soft)
    with pytest.raises(ValueError, match=r'truth/a.png: .* use --binarize 128'):
        lay_stills(tmp_path)
    assert not list((tmp_path / 'out').rglob('*.*')), 'no picture without its mask'
    out = lay_stills(tmp_path, '--binarize', '128')
    true = torch.from_numpy(soft >= 128).long()
    assert torch.equal(read_mask(out / 'images/ecssd/masks/a.png'), true)


def test_stills_that_do_not_fit_are_named(tmp_path):
    add_still(tmp_path, 'a', IDS, height=300)
    save(tmp_path / 'truth/b.png', IDS)
    with pytest.raises(ValueError, match='has 1 pictures and .* 2 masks: .*the first is b'):
        lay_stills(tmp_path)
    (tmp_path / 'truth/b.png').rename(tmp_path / 'truth/a.png')
    with pytest.raises(ValueError, match='a.png: expected 854x300 .*, got 854x480'):
        lay_stills(tmp_path)
    save(tmp_path / 'truth/a.png', 0 * IDS[:300])
    with pytest.raises(ValueError, match='a.png: expected the mask of an object'):
        lay_stills(tmp_path)
    save(tmp_path / 'truth/a.png', IDS[:300])
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='file/x cannot be laid out: Not a directory'):
        places = [str(tmp_path / name) for name in ('pictures', 'truth', 'file/x')]
        script.main(['stills', '--images', places[0], '--masks', places[1], '--out', places[2]])
