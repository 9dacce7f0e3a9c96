"Tasks: which frames, which object, which views."

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eosvos.core import generator
from eosvos.datasets import Sequence, _image_set
from eosvos.fine_tuning import AugmentConfig, augment
from eosvos.tasks import Pair, TaskConfig, Tasks, _focus, _paste, make_task
from eosvos.video import VOID

STILL = AugmentConfig(flip=0, angle=0, scale=(1, 1))
PLAIN = TaskConfig(set_weights=(('made', 1.0),), shared_view=STILL, view=STILL, steps=2)


@pytest.fixture(autouse=True)
def small_objects(monkeypatch):
    "The objects of these tests are small."
    monkeypatch.setattr('eosvos.tasks._MIN_PIXELS', 30)


@pytest.fixture
def made(tmp_path):
    """Two clips of six frames, 40 x 24, with objects 3 and 7; frame i has brightness 20 i.

    Object 7 is gone in frames 2 and 3 of `a`.
    """
    for name in 'ab':
        for kind in ('frames', 'masks'):
            (tmp_path / kind / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((24, 40, 3), 20 * i, np.uint8)).save(
                tmp_path / f'frames/{name}/{i:05d}.png'
            )
            ids = np.zeros((24, 40), np.uint8)
            ids[2:8, 2 + i : 8 + i] = 3
            if name == 'b' or i not in (2, 3):
                ids[12:20, 20:30] = 7
            Image.fromarray(ids).save(tmp_path / f'masks/{name}/{i:05d}.png')

    def files(kind, name):
        return tuple(sorted((tmp_path / kind / name).iterdir()))

    return dict(made=[Sequence(name, files('frames', name), files('masks', name)) for name in 'ab'])


def number(image):
    return round(image[0, 0, 0].item() * 255 / 20)


def test_each_object_is_a_task_and_a_hidden_one_is_not_drawn(made):
    tasks, seen = Tasks(made, PLAIN), set()
    for i in range(60):
        task = tasks[i]
        name, k = task.name.split()[1:]
        seen.add((name, k))
        for ((images, targets),) in (
            [task.inner, [task.test]] if len(task.inner) == 1 else [[task.inner[0]], [task.test]]
        ):
            assert (
                len(targets[0]['boxes']) == 1 and targets[0]['masks'].sum() == {'3': 36, '7': 80}[k]
            )
            assert (name, k) != ('a', '7') or number(images[0]) not in (2, 3)
    assert seen == {('a', '3'), ('a', '7'), ('b', '3'), ('b', '7')}


@pytest.mark.parametrize('pair', ['any', 'later', 'same'])
def test_which_frames(made, pair):
    tasks = Tasks(made, replace(PLAIN, pair=pair))
    pairs = [
        (number(t.inner[0][0][0]), number(t.test[0][0])) for t in (tasks[i] for i in range(80))
    ]
    order = {np.sign(b - a) for a, b in pairs}
    assert order == {'any': {-1, 0, 1}, 'later': {1}, 'same': {0}}[pair]
    assert len({a for a, _ in pairs}) >= 5, 'every frame is drawn'


def test_the_number_decides(made):
    first, second = Tasks(made, PLAIN), Tasks(made, PLAIN)
    for i in range(6):
        second[i]
    for i in 5, 1, 3, 1, 0:
        a, b = first[i], second[i]
        assert a.name == b.name and a.number == b.number == i
        assert torch.equal(a.test[0][0], b.test[0][0])
        assert torch.equal(a.inner[1][0][0], b.inner[1][0][0])
    other = Tasks(made, PLAIN, seed=2)
    assert [other[i].name for i in range(9)] != [first[i].name for i in range(9)]


def test_shared_and_own_views(made):
    config = replace(
        PLAIN,
        shared_view=AugmentConfig(angle=0, scale=(1, 1), colour=0.5, flip=0.5),
        view=AugmentConfig(flip=0),
        steps=3,
        pair='same',
    )
    pair = Tasks(made, config).pair(generator(1))
    fresh, kept = make_task(pair, replace(config, fresh=True), 1, 4), make_task(pair, config, 1, 4)
    assert torch.equal(kept.inner[0][0][0], kept.inner[2][0][0]) and not torch.equal(
        fresh.inner[0][0][0], fresh.inner[2][0][0]
    )
    assert torch.equal(fresh.inner[0][0][0], kept.inner[0][0][0]) and torch.equal(
        fresh.test[0][0], kept.test[0][0]
    )
    plain = make_task(pair, replace(config, view=STILL), 1, 4)
    assert torch.allclose(plain.inner[0][0][0], plain.test[0][0], atol=1e-6), (
        'colour and flip are those of the other frame'
    )


def test_pasting_is_target_distractor_or_part():
    square = torch.zeros(60, 100, dtype=torch.bool)
    square[20:40, 40:60] = True
    dark, light = torch.zeros(3, 60, 100), torch.ones(3, 60, 100)
    pair, other = Pair('a', [(dark, square)] * 2), Pair('b', [(light, square)] * 2)
    kinds = {}
    for i in range(60):
        made = _paste(pair, other, TaskConfig(joined=0.3), generator(i))
        if made is pair:
            continue
        kind = made.name.split()[1]
        kinds.setdefault(kind, []).append(made)
        for image, mask in made.frames:
            pasted = image[0] > 0.5
            assert pasted.any()
            if kind == 'behind':
                assert not (mask & pasted).any() and (mask <= square).all()
            if kind == 'under':
                assert (pasted & ~mask).sum() <= 0.2 * mask.sum()
            if kind == 'with':
                assert (square <= mask).all() and mask.sum() > square.sum() * 0.99
    assert set(kinds) == {'behind', 'under', 'with'}


def test_too_little_left_gives_the_pair_itself():
    dot = torch.zeros(10, 10, dtype=torch.bool)
    dot[5, 5] = True
    pair = Pair('a', [(torch.zeros(3, 10, 10), dot)] * 2)
    assert _paste(pair, pair, TaskConfig(joined=0.0), generator(0)) is pair


def test_refusals(made, monkeypatch):
    with pytest.raises(ValueError, match="objects in youtube-vos, found none; sets: .'made'."):
        Tasks(made, TaskConfig())
    with pytest.raises(ValueError, match="got 'before'"):
        TaskConfig(pair='before')
    monkeypatch.setattr('eosvos.tasks._MIN_PIXELS', 5000)
    with pytest.raises(ValueError, match='at least 5000 pixels in made'):
        Tasks(made, PLAIN)[0]


def test_void_is_no_object_and_stays_void(tmp_path):
    for kind in 'images', 'masks':
        (tmp_path / kind).mkdir()
    Image.new('RGB', (40, 24)).save(tmp_path / 'images/a.png')
    ids = np.zeros((24, 40), np.uint8)
    ids[2:8, 2:8], ids[2:8, 8:12], ids[12:20, 20:30] = 3, VOID, 7
    Image.fromarray(ids).save(tmp_path / 'masks/a.png')
    tasks = Tasks(dict(made=_image_set(tmp_path)), PLAIN)
    assert [k for _, k in tasks.objects['made']] == [3, 7]
    for i in range(20):
        pair = tasks.pair(generator(i))
        (_, mask), _ = pair.frames
        k = int(pair.name.split()[-1])
        expected = np.where(ids == VOID, VOID, ids == k)
        assert mask.tolist() == expected.tolist()


def test_several_test_frames(made):
    task = Tasks(made, replace(PLAIN, tests=3))[0]
    assert len(task.test[0]) == len(task.test[1]) == 3 and all(
        len(images) == 1 for images, _ in task.inner
    )
    frames = [
        {number(image) for image in Tasks(made, replace(PLAIN, tests=3))[i].test[0]}
        for i in range(10)
    ]
    assert max(map(len, frames)) == 3, 'drawn independently'


def test_focus_keeps_the_object_in_sight(made):
    pair = Tasks(made, PLAIN).pair(generator(1))
    shown = [(mask == 1).sum() for _, mask in pair.frames]
    for i in range(20):
        near = _focus(pair, 0.9, generator(2, i))
        assert all(image.shape[-2:] == mask.shape for image, mask in near.frames)
        (_, first), (_, second) = near.frames
        assert first.sum() == shown[0] and first.numel() < pair.frames[0][1].numel()
        assert second.sum() >= 0.5 * shown[1], 'off by a fifth of the box at most'
    again = [_focus(pair, 0.5, generator(3)).frames[1][0] for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize('fresh, views', [(False, 1), (True, 4)])
def test_a_view_is_made_once(made, monkeypatch, fresh, views):
    "And goes through the pipe of a worker once, since it is one object."
    config, calls = replace(PLAIN, steps=4, fresh=fresh), []

    def counted(*args):
        calls.append(args)
        return augment(*args)

    monkeypatch.setattr('eosvos.tasks.augment', counted)
    task = Tasks(made, config)[0]
    assert len(calls) == 2 + views + 1  # both frames, the inner views, the test view
    assert len(task.inner) == 4 and len({id(batch) for batch in task.inner}) == views


def test_a_picture_is_read_when_its_mask_has_shown_the_object(made, monkeypatch):
    "Once each; what is drawn and not taken is not read."
    read, image = [], Sequence.image
    monkeypatch.setattr(
        Sequence, 'image', lambda sequence, i: read.append(i) or image(sequence, i)
    )
    tasks = Tasks(made, replace(PLAIN, tests=3, pair='later'))
    for i in range(20):
        read.clear()
        tasks[i]
        assert len(read) == len(set(read)) <= 4 and read[0] == min(read)


def test_what_is_mirrored_is_copied():
    picture = torch.rand(3, 5, 7, generator=generator('copied'))
    mirrored = AugmentConfig(flip=1, angle=0, scale=(1, 1))
    for config, expected in ((STILL, picture), (mirrored, picture.flip(2))):
        view, mask = augment(picture, picture[:1] > 0.5, config, generator(0))
        assert torch.equal(view, expected) and torch.equal(mask, expected[:1] > 0.5)
