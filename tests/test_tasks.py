"Tasks: which frames, which object, which views."
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eosvos.core import generator
from eosvos.datasets import folders
from eosvos.fine_tuning import AugmentConfig
from eosvos.tasks import Pair, TaskConfig, Tasks, focus, make_task, paste, shown

STILL = AugmentConfig(flip=0, angle=0, scale=(1, 1))
PLAIN = TaskConfig(shares=(('made', 1.0),), common=STILL, view=STILL, steps=2, least=4)


@pytest.fixture
def made(tmp_path):
    "Two clips of six frames, 40 x 24, with objects 3 and 7; frame i has brightness 20 i. Object 7 is gone in frames 2 and 3 of `a`."
    for name in 'ab':
        for kind in ('frames', 'masks'): (tmp_path / kind / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((24, 40, 3), 20 * i, np.uint8)).save(tmp_path / f'frames/{name}/{i:05d}.png')
            ids = np.zeros((24, 40), np.uint8)
            ids[2:8, 2 + i:8 + i] = 3
            if name == 'b' or i not in (2, 3): ids[12:20, 20:30] = 7
            Image.fromarray(ids).save(tmp_path / f'masks/{name}/{i:05d}.png')
    return dict(made=folders(tmp_path / 'frames', tmp_path / 'masks'))


def number(image): return round(image[0, 0, 0].item() * 255 / 20)


def test_each_object_is_a_task_and_a_hidden_one_is_not_drawn(made):
    tasks, seen = Tasks(made, PLAIN), set()
    for i in range(60):
        task = tasks[i]
        name, k = task.name.split()[1:]
        seen.add((name, k))
        for (images, targets), in [task.inner, [task.test]] if len(task.inner) == 1 else [[task.inner[0]], [task.test]]:
            assert len(targets[0]['boxes']) == 1 and targets[0]['masks'].sum() == {'3': 36, '7': 80}[k]
            assert (name, k) != ('a', '7') or number(images[0]) not in (2, 3)
    assert seen == {('a', '3'), ('a', '7'), ('b', '3'), ('b', '7')}


def test_merged_objects_are_one(made):
    task = Tasks(made, replace(PLAIN, separate=False))[0]
    assert task.name.endswith('all') and task.test[1][0]['masks'].sum() in (36, 36 + 80)


@pytest.mark.parametrize('pair', ['any', 'later', 'same'])
def test_which_frames(made, pair):
    tasks = Tasks(made, replace(PLAIN, pair=pair))
    pairs = [(number(t.inner[0][0][0]), number(t.test[0][0])) for t in (tasks[i] for i in range(80))]
    order = {np.sign(b - a) for a, b in pairs}
    assert order == {'any': {-1, 0, 1}, 'later': {1}, 'same': {0}}[pair]
    assert len({a for a, _ in pairs}) >= 5, 'every frame is drawn'


def test_the_number_decides_and_the_cache_changes_nothing(made):
    first, second = Tasks(made, PLAIN), Tasks(made, replace(PLAIN, cache=0))
    order = [5, 1, 3, 1, 0]
    for i in order:
        a, b = first[i], second[i]
        assert a.name == b.name and torch.equal(a.test[0][0], b.test[0][0]) and torch.equal(a.inner[1][0][0], b.inner[1][0][0])
    assert first.frames.kept and not second.frames.kept


def test_common_and_own_views(made):
    config = replace(PLAIN, common=AugmentConfig(angle=0, scale=(1, 1), colour=0.5, flip=0.5), view=AugmentConfig(flip=0), steps=3, pair='same')
    pair = Tasks(made, config).pair(generator(1))
    fresh, kept = make_task(pair, replace(config, fresh=True), 4), make_task(pair, config, 4)
    assert torch.equal(kept.inner[0][0][0], kept.inner[2][0][0]) and not torch.equal(fresh.inner[0][0][0], fresh.inner[2][0][0])
    assert torch.equal(fresh.inner[0][0][0], kept.inner[0][0][0]) and torch.equal(fresh.test[0][0], kept.test[0][0])
    plain = make_task(pair, replace(config, view=STILL), 4)
    assert torch.allclose(plain.inner[0][0][0], plain.test[0][0], atol=1e-6), 'colour and flip are those of the other frame'


def test_pasting_is_target_distractor_or_part():
    square = torch.zeros(60, 100, dtype=torch.bool)
    square[20:40, 40:60] = True
    dark, light = torch.zeros(3, 60, 100), torch.ones(3, 60, 100)
    pair, other = Pair('a', (dark, dark), (square, square)), Pair('b', (light, light), (square, square))
    kinds = {}
    for i in range(60):
        made = paste(pair, other, TaskConfig(joined=0.3, least=30), generator(i))
        if made is pair: continue
        kind = made.name.split()[1]
        kinds.setdefault(kind, []).append(made)
        for image, mask in zip(made.images, made.masks):
            pasted = image[0] > 0.5
            assert pasted.any()
            if kind == 'behind': assert not (mask & pasted).any() and (mask <= square).all()
            if kind == 'under': assert (pasted & ~mask).sum() <= 0.2 * mask.sum()
            if kind == 'with': assert (square <= mask).all() and mask.sum() > square.sum() * 0.99
    assert set(kinds) == {'behind', 'under', 'with'}


def test_too_little_left_gives_the_pair_itself():
    dot = torch.zeros(10, 10, dtype=torch.bool)
    dot[5, 5] = True
    pair = Pair('a', (torch.zeros(3, 10, 10),) * 2, (dot,) * 2)
    assert paste(pair, pair, TaskConfig(joined=0.0, least=50), generator(0)) is pair


def test_refusals(made):
    with pytest.raises(ValueError, match="expected names among .'made'., got 'youtube-vos'"): Tasks(made, TaskConfig())
    with pytest.raises(ValueError, match="got 'before'"): TaskConfig(pair='before')
    with pytest.raises(ValueError, match='at least 5000 pixels in made'): Tasks(made, replace(PLAIN, least=5000))[0]


def test_void_is_no_object():
    ids = torch.tensor([[1, 255], [0, 0]], dtype=torch.uint8)
    assert shown(ids, None, 1).tolist() == [[1, 255], [0, 0]] and shown(ids, 2, 1) is None


def test_several_test_frames(made):
    task = Tasks(made, replace(PLAIN, tests=3))[0]
    assert len(task.test[0]) == len(task.test[1]) == 3 and all(len(images) == 1 for images, _ in task.inner)
    frames = [{number(image) for image in Tasks(made, replace(PLAIN, tests=3))[i].test[0]} for i in range(10)]
    assert max(map(len, frames)) == 3, 'drawn independently'


def test_focus_keeps_the_object_in_sight(made):
    pair = Tasks(made, PLAIN).pair(generator(1))
    for i in range(20):
        near = focus(pair, 0.9, generator(2, i))
        assert near.masks[0].sum() == pair.masks[0].sum() and near.masks[0].numel() < pair.masks[0].numel()
        assert all(image.shape[-2:] == mask.shape for image, mask in zip(near.images, near.masks))
        assert near.masks[1].sum() >= 0.5 * pair.masks[1].sum(), 'the window of a test frame is off by a fifth of the box at most'
    assert torch.equal(focus(pair, 0.5, generator(3)).images[1], focus(pair, 0.5, generator(3)).images[1])
