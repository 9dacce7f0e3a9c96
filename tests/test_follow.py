"Following objects: with a scripted model that answers at once, or the small one on small frames."

import os
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import partial
from threading import Event
from time import sleep

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import eosvos
from eosvos import follow as module
from eosvos.core import DEMO, generator, masks_to_boxes
from eosvos.fine_tuning import AugmentConfig, FineTuneConfig, search_window
from eosvos.follow import (
    PAPER_SEGMENT,
    SMALL_SEGMENT,
    Follower,
    SegmentConfig,
    Tracker,
    _merge,
    _resize_to_model,
    follow,
    jitter,
    load,
    seen_by,
    segment,
    select_detection,
    write_results,
)
from eosvos.mask_rcnn import ImageConfig
from eosvos.metrics import jaccard
from eosvos.video import read_image, read_mask
from eosvos.weights import load_model, load_rates

H, W = 24, 40
QUICK = SegmentConfig(fine_tune=FineTuneConfig(iterations=0), extra_boxes=10)


@pytest.fixture(autouse=True, scope='module')
def large_jitter():
    "The squares of these tests are small, and move by a third of their side."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'jitter', partial(jitter, grow=0.3))
        yield


class Frames:
    "A clip in memory that notes which frames were read, in order."

    def __init__(self, images):
        self.images, self.reads, self.names = images, [], [f'{i:05d}' for i in range(len(images))]
        self.size = tuple(images[0].shape[1:])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.reads.append(i)
        return self.images[i].clone()


class Scripted(nn.Module):
    """Finds the bright pixels inside the hull of the boxes it is given, or all if it is given none.

    Its loss is `weight` times the mean of the first channel, so that the weight tells which
    pictures it was trained on.
    """

    def __init__(self):
        super().__init__()
        self.weight, self.image_config = nn.Parameter(torch.ones(())), ImageConfig(H, W)
        self.boxes, self.trained, self.seen = [], [], []

    def forward(self, images, targets=None, extra_boxes=None, generator=None, choose=None):
        if targets is not None:
            self.trained.append(
                (
                    [image[0].mean().item() for image in images],
                    [t['masks'].sum().item() for t in targets],
                )
            )
            return dict(loss=self.weight * sum(image[0].mean() for image in images))
        self.seen.append(self.weight.item())
        self.boxes.append(None if extra_boxes is None else extra_boxes[0])
        mask = images[0][0] > 0.5
        if extra_boxes is not None and len(extra_boxes[0]):
            (x1, y1), (x2, y2) = (
                extra_boxes[0][:, :2].amin(0).floor().int().clamp(min=0),
                extra_boxes[0][:, 2:].amax(0).ceil().int(),
            )
            hull = torch.zeros_like(mask)
            hull[y1:y2, x1:x2] = True
            mask = mask & hull
        masks = mask[None].float()[
            : int(mask.any())
        ]  # (1, H, W), or (0, H, W) where nothing is found
        return [dict(boxes=masks_to_boxes(masks), scores=torch.ones(len(masks)), masks=0.9 * masks)]


def scene(*tracks, count=8, size=6):
    "Frames with bright squares: `tracks` lead from a frame's number to a left top corner, or None."
    images, ids = [], []
    for i in range(count):
        image, mask = torch.full((3, H, W), 0.1), torch.zeros(H, W, dtype=torch.int64)
        for k, track in enumerate(tracks):
            if (corner := track(i)) is not None:
                place = slice(corner[1], corner[1] + size), slice(corner[0], corner[0] + size)
                image[:, place[0], place[1]], mask[place] = 0.8, k + 1
        images.append(image)
        ids.append(mask)
    return Frames(images), ids


def upper(i):
    return 2 + i, 2


def lower(i):
    return 30 - 2 * i, 14


def leaving(i):
    return None if 2 <= i <= 4 else (4, 2)


def tracker(config=QUICK, model=None, rates=1e-3):
    return Tracker(model or Scripted(), rates, config)


def run(clip, masks, config=QUICK, model=None):
    "Id maps by frame number."
    return dict(follow(tracker(config, model), clip, masks))


# ---- several objects


def test_follows_and_keeps_ids():
    clip, truth = scene(upper, lower)
    ids = torch.tensor([0, 3, 7])
    result = run(clip, {0: ids[truth[0]]})
    assert list(result) == list(range(8)) and all(o.dtype == torch.int64 for o in result.values())
    assert all(torch.equal(result[i], ids[truth[i]]) for i in range(8))


def test_an_object_that_appears_later():
    clip, truth = scene(upper, lower)
    masks = {0: truth[0] * (truth[0] == 1), 3: torch.tensor([0, 0, 7])[truth[3]]}
    result, forwards = run(clip, masks), dict(follow(tracker(), clip, masks, backwards=False))
    assert list(forwards) == list(range(8))
    for i in range(8):
        assert torch.equal(result[i], torch.tensor([0, 1, 7])[truth[i]])
        assert torch.equal(forwards[i] == 7, (truth[i] == 2) & (i >= 3))


@pytest.mark.parametrize('one, two', [(2, 4), (4, 2), (0, 7), (7, 0), (3, 3), (6, 7)])
def test_every_object_is_followed_back_from_its_first_mask(one, two):
    clip, truth = scene(upper, lower)
    given = {one: truth[one] * (truth[one] == 1)}
    given[two] = given.get(two, 0) + truth[two] * (truth[two] == 2)
    result = run(clip, given)
    assert sorted(result) == list(range(8)) and all(
        torch.equal(result[i], truth[i]) for i in range(8)
    )
    last = max(one, two)
    assert list(result) == [*range(last, 8), *reversed(range(last))]


def test_an_object_given_again_on_the_way_back_stays_as_it_was_given():
    "Object 1 is known in frames 0 and 5, object 2 in frame 6: what is given wins both ways."
    clip, truth = scene(upper, lower)
    corrected = torch.zeros_like(truth[5])
    corrected[3:5, 8:10] = 1
    result = run(clip, {0: truth[0] * (truth[0] == 1), 5: corrected, 6: truth[6] * (truth[6] == 2)})
    assert torch.equal(result[5] == 1, corrected == 1) and torch.equal(
        result[5] == 2, truth[5] == 2
    )
    assert all(torch.equal(result[i] == 2, truth[i] == 2) for i in range(8))


def test_a_later_mask_without_objects_says_that_they_are_gone():
    clip, truth = scene(upper, lower)
    result = run(clip, {0: truth[0], 3: torch.zeros_like(truth[3])})
    assert not result[3].any() and torch.equal(result[2], truth[2])
    gone, late = scene(leaving, lower), {0: 1, 5: 2}
    masks = {i: gone[1][i] * (gone[1][i] == k) for i, k in late.items()} | {
        3: torch.zeros_like(truth[3])
    }
    result = run(gone[0], masks)
    assert not result[3].any(), 'on the way back, too'
    assert torch.equal(result[1], gone[1][1]) and torch.equal(result[7], gone[1][7])


def test_an_object_given_again_keeps_its_follower(monkeypatch):
    made = Counter()

    class Counted(Follower):
        def __init__(self, tracker, image, mask, name):
            made[name] += 1
            super().__init__(tracker, image, mask, name)

    monkeypatch.setattr(module, 'Follower', Counted)
    clip, truth = scene(upper, lower)
    corrected = torch.zeros_like(truth[4])
    corrected[3:5, 8:10] = 1  # the user says: it is only this
    result = run(clip, {0: truth[0], 4: corrected})
    assert made == {1: 1, 2: 1}
    assert torch.equal(result[4] == 1, corrected == 1), 'what is given is the truth'
    assert torch.equal(result[4] == 2, truth[4] == 2), 'who is not given is followed as before'


def square(x, y):
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[y : y + 6, x : x + 6] = True
    return mask


class Finder(Scripted):
    "A model that finds these masks with these scores where it gets no boxes."

    def __init__(self, masks, scores):
        super().__init__()
        self.found = masks, torch.tensor(scores)

    def forward(self, images, targets=None, extra_boxes=None, **rest):
        if targets is not None or extra_boxes is not None:
            return super().forward(images, targets, extra_boxes, **rest)
        masks, scores = self.found
        return [dict(boxes=masks_to_boxes(masks), scores=scores, masks=0.9 * masks.float())]


def test_others_are_what_is_given_and_what_is_found_elsewhere():
    own, given_too, elsewhere, doubtful = square(4, 4), square(20, 4), square(30, 14), square(4, 14)
    same_again = square(5, 4)
    unknown = square(12, 14)
    found = torch.stack([elsewhere, same_again, given_too, unknown, doubtful])
    model = Finder(found, [0.9, 0.9, 0.9, 0.9, 0.3])
    ids = own.byte() + 2 * given_too.byte() + module.VOID * unknown.byte()
    learned = FineTuneConfig(iterations=0, paste=1.0)
    frame = torch.zeros(3, H, W), ids
    follower = Follower(tracker(replace(QUICK, fine_tune=learned), model), *frame, 1)
    others = [mask == 1 for _, mask in follower.others(*frame)]
    assert len(others) == 2
    assert torch.equal(others[0], given_too) and torch.equal(others[1], elsewhere)
    plain = Follower(tracker(QUICK, model), *frame, 1)
    assert plain.others(*frame) == []


def test_each_follower_learns_from_all_ids(monkeypatch):
    learned = []

    class Seeing(Follower):
        def learn(self, image, mask, watch=iter):
            learned.append(mask)
            super().learn(image, mask, watch)

    monkeypatch.setattr(module, 'Follower', Seeing)
    clip, truth = scene(upper, lower)
    run(clip, {0: truth[0]})
    assert [mask.unique().tolist() for mask in learned] == [[0, 1, 2]] * 2
    for k, mask in zip((1, 2), learned):
        assert torch.equal(mask == 1, truth[0] == k)


IDS = st.sampled_from([0, 1, 2, 7, 254, 255])


@given(st.lists(IDS, min_size=1), st.sampled_from([1, 2, 7, 254]))
def test_the_ids_of_an_object_can_be_turned_back(ids, k):
    ids = torch.tensor([ids])
    seen = seen_by(k, ids)
    assert torch.equal(seen == 1, ids == k) and torch.equal(seen == 255, ids == 255)
    assert torch.equal(seen == 0, ids == 0)
    assert torch.equal(seen_by(k, seen).long(), ids)


def test_a_mask_given_again_is_learned_in_turn_with_the_earlier_ones():
    "Three frames of brightness 0.1, 0.3 and 0.5; the newest is learned first."
    model, mask = Scripted(), torch.zeros(H, W, dtype=torch.bool)
    mask[4:8, 4:8] = True
    still = AugmentConfig(flip=0, angle=0, scale=(1, 1))
    config = replace(QUICK, fine_tune=FineTuneConfig(4, batch=1, view=still))
    images = [torch.full((3, H, W), level) for level in (0.1, 0.3, 0.5)]
    follower = Follower(tracker(config, model), images[0], mask, 1)
    for image in images[1:]:
        before = follower.weights
        follower.correct(image, mask)
        assert follower.weights is follower.tuned is not before
        assert follower.weights['weight'] < before['weight'], 'it goes on from what it knew'
    learned = [round(level, 1) for (level,), _ in model.trained]
    assert learned == [*[0.1] * 4, 0.3, 0.1, 0.3, 0.1, 0.5, 0.3, 0.1, 0.5]
    follower.correct(images[0], torch.zeros_like(mask))
    assert len(model.trained) == 12 and not follower.sure, 'where it is not, nothing is learned'
    for level in (0.6, 0.7, 0.8, 0.9):
        follower.correct(torch.full((3, H, W), level), mask)
    kept = [round(image.mean().item(), 1) for image, _, _ in follower.given]
    assert kept == [0.9, 0.8, 0.7, 0.6, 0.1], 'the first and the newest'


def test_the_box_starts_from_a_mask_given_again():
    model = Scripted()
    clip, truth = scene(upper)
    moved = torch.zeros_like(truth[3])
    moved[15:20, 25:30] = 1
    run(clip, {0: truth[0], 3: moved}, model=model)
    hull = model.boxes[3]  # of frame 4
    assert hull[:, 0].max() <= 25 <= 30 <= hull[:, 2].min() and hull[:, 0].min() > 20


def test_void_is_nobody():
    clip, truth = scene(upper)
    first = truth[0].clone()
    first[:, -3:] = 255
    assert all(set(ids.unique().tolist()) == {0, 1} for ids in run(clip, {0: first}).values())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6), st.permutations(range(4)))
def test_merge(count, seed, order):
    maps = torch.rand(count, 3, 5, generator=generator(seed))
    names, order = [3, 7, 1, 200][:count], [k for k in order if k < count]
    none = torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.uint8)
    merged = _merge(zip(names, maps), *none)[1]
    for y in range(3):
        for x in range(5):
            p, k = max((maps[k, y, x].item(), k) for k in range(count))
            assert merged[y, x] == (names[k] if p >= 0.5 else 0)
    again = _merge([(names[k], maps[k]) for k in order], *none)[1]
    assert torch.equal(again, merged), 'the order of objects does not matter'


def test_two_objects_claim_one_place():
    "An object alone is what it is beside another, but for the pixels that it lost."
    clip, truth = scene(upper, lambda i: (30 - 3 * i, 3))
    both, one = run(clip, {0: truth[0]}), run(clip, {0: truth[0] * (truth[0] == 1)})
    for i in range(1, 8):
        assert torch.equal(both[i] == 1, (one[i] == 1) & (both[i] != 2))


# ---- order of frames


@pytest.mark.parametrize('online', [False, True])
def test_one_future_frame_is_read_and_none_is_used(online):
    clip, truth = scene(upper, lower)
    config = replace(QUICK, online=online, online_every=3, online_iterations=1)
    whole = follow(tracker(config), clip, {0: truth[0]})
    for i, ids in whole:
        assert max(clip.reads) <= i + 1
        cut = follow(tracker(config), Frames(clip.images[: i + 1]), {0: truth[0]})
        assert torch.equal(ids, list(cut)[-1][1])
    assert clip.reads == list(range(8)), 'each frame once'


def test_a_mask_in_the_middle_is_followed_both_ways():
    clip, truth = scene(upper, lower)
    result = run(clip, {5: truth[5]})
    assert list(result) == clip.reads == [5, 6, 7, 4, 3, 2, 1, 0]
    assert all(torch.equal(result[i], truth[i]) for i in range(8))


def test_backwards_starts_again_from_the_given_frame():
    "What happened after the mask has no influence on the frames before it."
    clip, truth = scene(upper)
    online = replace(QUICK, online=True, online_every=3, online_iterations=2)
    other = Frames(clip.images[:5] + [torch.rand(3, H, W) for _ in range(3)])
    a, b = (dict(follow(tracker(online, rates=0.1), o, {4: truth[4]})) for o in (clip, other))
    assert not torch.equal(a[7], b[7]) and all(torch.equal(a[i], b[i]) for i in range(5))


def test_forwards_only():
    clip, truth = scene(upper, lower)
    result = dict(follow(tracker(), clip, {5: truth[5]}, backwards=False))
    assert sorted(result) == list(range(8))
    for i in range(8):
        assert torch.equal(result[i], truth[i] if i >= 5 else torch.zeros_like(truth[i]))


@pytest.mark.parametrize('frame', [0, 7])
def test_a_mask_at_either_end(frame):
    clip, truth = scene(upper)
    result = run(clip, {frame: truth[frame]})
    assert sorted(result) == list(range(8)) and all(
        torch.equal(result[i], truth[i]) for i in range(8)
    )


def test_one_frame():
    clip, truth = scene(upper, count=1)
    assert torch.equal(run(clip, {0: truth[0]})[0], truth[0])


# ---- one object


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(31, 60)] * 2),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_jitter_grows_outwards_only(box, grow, seed):
    box = torch.tensor(box, dtype=torch.float32)
    copies = jitter(box, 20, generator(seed), grow)
    size = (box[2:] - box[:2]).repeat(2)
    outwards = (copies - box) * torch.tensor([-1, -1, 1, 1])
    assert (
        copies.shape == (20, 4) and (outwards >= 0).all() and (outwards <= grow * size + 1e-4).all()
    )
    assert torch.equal(copies, jitter(box, 20, generator(seed), grow))


def test_without_boxes():
    assert jitter(torch.tensor([1.0, 2, 3, 4]), 0, generator(0)).shape == (0, 4)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 10**6))
def test_pick(count, nearness, seed):
    random = generator(seed)
    corner = 20 * torch.rand(count, 2, generator=random)
    boxes, scores = torch.cat([corner, corner + 10], 1), torch.rand(count, generator=random)
    last = boxes[0] + 1

    def rank(k):
        return (
            scores[k] * (1 - nearness + nearness * 81 / 119)
            if k == 0
            else scores[k] * (1 - nearness)
        )

    assert select_detection(dict(boxes=boxes, scores=scores), last, 0) == [scores.argmax()], (
        'the paper: by score alone'
    )
    far = torch.cat([boxes[:1], boxes[1:] + 100])
    assert select_detection(dict(boxes=far, scores=scores), last, nearness) == [
        max(range(count), key=rank)
    ]


def test_pick_nothing():
    assert (
        select_detection(
            dict(boxes=torch.zeros(0, 4), scores=torch.zeros(0)), torch.tensor([1.0, 2, 3, 4]), 0.5
        )
        == []
    )


def test_nearness_keeps_to_one_of_two():
    "Two squares in every box: the larger score is elsewhere."

    class Two(Scripted):
        def forward(self, images, targets=None, extra_boxes=None, generator=None, choose=None):
            masks = torch.stack([images[0][0] > 0.5, images[0][1] > 0.5]).float()
            k = choose(dict(boxes=masks_to_boxes(masks), scores=torch.tensor([0.7, 0.9])))
            return [
                dict(
                    boxes=masks_to_boxes(masks)[k],
                    scores=torch.tensor([0.7, 0.9])[k],
                    masks=masks[k],
                )
            ]

    image, other = torch.zeros(3, H, W), torch.zeros(H, W, dtype=torch.int64)
    image[0, 2:8, 2:8], image[1, 12:18, 20:26], other[2:8, 2:8] = 1, 1, 5
    for nearness, k in ((0, 1), (0.7, 0)):
        result = run(Frames([image] * 3), {0: other}, replace(QUICK, nearness=nearness), Two())
        assert torch.equal(result[2] == 5, image[k] > 0.5)


def test_lost_and_found_again():
    "While the object is away its first box is looked at; it is found there when it returns."
    model = Scripted()
    clip, truth = scene(leaving)
    result = run(clip, {0: truth[0]}, model=model)
    assert (
        all(torch.equal(result[i], truth[i]) for i in range(8))
        and not result[3].any()
        and result[5].any()
    )
    box = masks_to_boxes(truth[0][None])[0]
    for boxes in model.boxes[2:5]:
        assert (boxes[:, :2] <= box[:2]).all() and (boxes[:, 2:] >= box[2:]).all()


def test_an_adaptation_while_the_object_is_away():
    "There is no last mask to begin a new stretch with: the one before is kept."
    model, config = Scripted(), replace(QUICK, online=True, online_every=3, online_iterations=1)
    clip, truth = scene(leaving)
    result = run(clip, {0: truth[0]}, config, model)
    assert model.trained and all(torch.equal(result[i], truth[i]) for i in range(8))


def test_never_found():
    clip = Frames([torch.zeros(3, H, W)] * 4)
    mask = torch.zeros(H, W, dtype=torch.int64)
    mask[5:9, 5:9] = 4
    result = run(clip, {0: mask}, replace(QUICK, online=True, online_every=3, online_iterations=1))
    assert torch.equal(result[0], mask) and not any(result[i].any() for i in (1, 2, 3))


# ---- online adaptation


def adapting(count=12, every=5, iterations=3, lr=0.1, batch=3, **more):
    "A follower after a clip whose frame i has brightness i / 100, and the model that recorded it."
    model = Scripted()
    config = SegmentConfig(
        FineTuneConfig(iterations=0, batch=batch),
        extra_boxes=4,
        online=True,
        online_every=every,
        online_iterations=iterations,
        **more,
    )
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[4:8, 4:8] = True
    images = [torch.full((3, H, W), i / 100).masked_fill(mask, 0.9) for i in range(count)]
    follower = Follower(Tracker(model, lr, config), images[0], mask, 1)
    for image in images[1:]:
        follower.step(image)
    return follower, model, [image[0].mean().item() for image in images]


def test_which_frames_are_learned_and_when():
    "Before frame m = 6, 11, ...: the first frame, m - 4 and m - 3."
    _, model, means = adapting()
    assert [round(w, 6) for w in model.seen[:5]] == [1] * 5 and model.seen[5] != 1
    assert len(model.trained) == 6
    for images, pixels in model.trained[:3]:
        assert images == pytest.approx([means[0], means[2], means[3]]) and pixels == [16] * 3
    for images, _ in model.trained[3:]:
        assert images == pytest.approx([means[0], means[7], means[8]])


@pytest.mark.parametrize(
    'batch, learned',
    [
        (1, [[0], [2], [3], [0]]),
        (2, [[0, 2], [3, 0], [2, 3], [0, 2]]),
        (3, [[0, 2, 3]] * 4),
        (9, [[0, 2, 3]] * 4),
    ],
)
def test_the_pictures_of_an_adaptation_take_turns(batch, learned):
    _, model, means = adapting(count=7, iterations=4, batch=batch)
    assert [images for images, _ in model.trained] == [
        pytest.approx([means[i] for i in step]) for step in learned
    ]


def test_each_adaptation_starts_from_the_first_frame():
    follower, model, means = adapting(lr=0.1, iterations=3)
    expected = 1 - 3 * 0.1 * (means[0] + means[7] + means[8])  # not 1 - ... of both adaptations
    assert follower.tuned['weight'] == 1 and follower.weights['weight'].item() == pytest.approx(
        expected
    )
    assert model.seen[-1] == pytest.approx(expected) and model.weight == 1


@pytest.mark.parametrize(
    'frames, first, second',
    [
        ('released', [2, 3], [7, 8]),
        ('submission', [2, 3, 4, 5], [7, 8, 9, 10]),
        ('paper', [1, 2, 3, 4, 5], [6, 7, 8, 9, 10]),
    ],
)
def test_choices_of_past_frames(frames, first, second):
    _, model, means = adapting(iterations=1, batch=6, online_frames=frames)
    assert [images for images, _ in model.trained] == [
        pytest.approx([means[i] for i in [0, *past]]) for past in (first, second)
    ]


@pytest.mark.parametrize('reset', ['first', 'initial', 'none'])
def test_where_an_adaptation_starts(reset):
    "The first frame takes one step away from the initial weight 1, and each adaptation one more."
    model = Scripted()
    config = SegmentConfig(
        FineTuneConfig(iterations=1, batch=1),
        extra_boxes=4,
        online=True,
        online_every=3,
        online_iterations=1,
        online_reset=reset,
    )
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[4:8, 4:8] = True
    image = torch.full((3, H, W), 0.25).masked_fill(mask, 0.75)
    follower = Follower(Tracker(model, 0.1, config), image, mask, 1)
    tuned = follower.tuned['weight'].item()
    for _ in range(7):
        follower.step(image)
    learned = [
        1 - seen for seen in model.seen
    ]  # in each frame, what fine-tuning and adaptations took from the weight
    step = 0.1 * sum(model.trained[-1][0])
    assert 0 < 1 - tuned and len(model.trained) == 3
    start = {'first': [tuned, tuned], 'initial': [1, 1], 'none': [tuned, tuned - step]}[reset]
    assert learned == pytest.approx(
        [1 - tuned] * 3 + [1 - start[0] + step] * 3 + [1 - start[1] + step]
    )
    assert model.weight == 1 and follower.tuned['weight'].item() == tuned


@pytest.mark.parametrize('score, count', [(0.49, 1), (0.5, 3), (1.0, 3)])
def test_doubtful_masks_are_not_learned(score, count):
    class Unsure(Scripted):
        def forward(self, *arguments, **more):
            found = super().forward(*arguments, **more)
            return (
                [o | dict(scores=o['scores'] * score) for o in found]
                if isinstance(found, list)
                else found
            )

    clip, truth = scene(upper)
    model = Unsure()
    result = run(
        clip, {0: truth[0]}, replace(QUICK, online=True, online_every=3, online_iterations=1), model
    )
    assert [len(images) for images, _ in model.trained] == [count] * 2
    assert all(torch.equal(result[i], truth[i]) for i in range(8)), 'they are followed all the same'


class Swayed(Scripted):
    "Once its weight has moved it sees a column too much."

    def __init__(self, score):  # of what the first weight finds
        super().__init__()
        self.score, self.learned = score, []

    def forward(self, images, targets=None, **more):
        found = super().forward(images, targets, **more)
        if targets is not None:
            self.learned.append([(t['masks'].sum().item(), 'valid' in t) for t in targets])
            self.unknown = [(~t['valid']).sum().item() for t in targets if 'valid' in t]
            return found
        if self.weight.item() == 1:
            return [o | dict(scores=o['scores'] * self.score) for o in found]
        wider = [torch.maximum(o['masks'], o['masks'].roll(1, 2)) for o in found]
        return [
            o | dict(masks=masks, boxes=masks_to_boxes(masks > 0)) for o, masks in zip(found, wider)
        ]


@pytest.mark.parametrize(
    'agree, score, pixels, unknown',
    [(False, 1.0, 20, []), (True, 1.0, 16, [4, 4]), (True, 0.5, 16, [4, 4]), (True, 0.4, 20, [])],
)
def test_past_pixels_are_learned_where_the_first_weights_agree(agree, score, pixels, unknown):
    "From frame 6 on the adapted weight adds four pixels to the sixteen of the square."
    model, mask = Swayed(score), torch.zeros(H, W, dtype=torch.bool)
    mask[4:8, 4:8] = True
    image = torch.full((3, H, W), 0.1).masked_fill(mask, 0.9)
    config = replace(QUICK, online=True, online_iterations=1, online_agree=agree)
    follower = Follower(Tracker(model, 0.1, config), image, mask, 1)
    for _ in range(11):
        found = follower.step(image)
    assert (found >= 0.5).sum() == 20, 'what is seen stays'
    assert len(model.learned) == 2 and not any(valid for _, valid in model.learned[0])
    assert [count for count, _ in model.learned[1]] == [16, pixels, pixels]
    assert model.unknown == unknown


@pytest.mark.parametrize('name', ['online_frames', 'online_reset'])
def test_unknown_choices_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected one of .*, got 'best'"):
        SegmentConfig(**{name: 'best'})


def test_the_rates_of_the_tracker_reach_every_inner_step(monkeypatch):
    seen, rates, tune = [], {'weight': torch.tensor(0.5)}, module.fine_tune

    def fine_tune(*arguments):
        seen.append(arguments[-1])
        return tune(*arguments)

    monkeypatch.setattr(module, 'fine_tune', fine_tune)
    clip, truth = scene(upper)
    config = replace(QUICK, online=True, online_every=3, online_iterations=1)
    list(follow(tracker(config, rates=rates), clip, {0: truth[0]}))
    assert len(seen) == 3 and all(o is rates for o in seen)


def test_learned_rates_cannot_be_forgotten():
    "What belongs to weights comes with them: there is no way to follow without saying the rates."
    tracker = load('small', 'cpu')
    learned = load_rates('small')
    assert tracker.config == SMALL_SEGMENT and tracker.rates.keys() == learned.keys()
    assert all(torch.equal(tracker.rates[name], rate) for name, rate in learned.items())
    with pytest.raises(TypeError):
        Tracker(tracker.model, config=SMALL_SEGMENT)
    for rate in (-1e-3, float('nan'), float('inf')):
        with pytest.raises(ValueError, match=f'rates: expected at least 0, got {rate}'):
            Tracker(tracker.model, rate, SMALL_SEGMENT)
    assert eosvos.load is load and eosvos.segment is segment


def test_rewind():
    follower, _, _ = adapting()
    follower.rewind()
    assert (
        follower.weights is follower.tuned
        and torch.equal(follower.mask, follower.given[0][1])
        and not follower.past
        and follower.steps == 0
    )


def test_frames_without_the_object_are_not_learned():
    model = Scripted()
    config = replace(QUICK, online=True, online_every=3, online_iterations=1)
    clip, truth = scene(lambda i: None if i == 2 else (4, 2))
    run(clip, {0: truth[0]}, config, model)
    assert [len(images) for images, _ in model.trained] == [
        2,
        3,
    ]  # before frame 4 frame 2 is left out


@pytest.mark.parametrize('online', [False, True])
def test_memory_is_flat(online):
    "Alive are at most the first frame, the next one, and this or the window of the adaptation."
    count, every, alive = 30, 5, []

    class Stream:
        def __len__(self):
            return count

        def __getitem__(self, i):
            image = torch.rand(3, H, W)
            alive.append(weakref.ref(image))
            return image

    mask = torch.zeros(H, W, dtype=torch.int64)
    mask[4:8, 4:8] = 1
    config, most = replace(QUICK, online=online, online_every=every, online_iterations=1), 0
    for _ in follow(tracker(config), Stream(), {0: mask}):
        most = max(most, sum(o() is not None for o in alive))
    assert most <= (every + 3 if online else 3)


# ---- smaller pairs


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 200), st.integers(40, 200), st.integers(0, 10**6))
def test_a_single_pixel_is_not_lost(h, w, seed):
    model = Scripted()
    mask = torch.zeros(h, w, dtype=torch.bool)
    mask.view(-1)[torch.randint(h * w, (), generator=generator(seed))] = True
    image, small = _resize_to_model(torch.rand(3, h, w), mask, model)
    assert (
        small.any()
        and small.sum() <= 4
        and image.shape[1:] == small.shape
        and small.dtype == torch.bool
    )
    assert not _resize_to_model(image, torch.zeros_like(small), model)[1].any()


def test_small_pictures_are_not_enlarged():
    model, image, mask = Scripted(), torch.rand(3, 12, 20), torch.zeros(12, 20, dtype=torch.bool)
    a, b = _resize_to_model(image, mask, model)
    assert a is image and b is mask


def test_shares_of_a_large_object_stay():
    mask = torch.zeros(96, 160, dtype=torch.bool)
    mask[20:60, 40:100] = True
    _, small = _resize_to_model(torch.rand(3, 96, 160), mask, Scripted())
    assert small.shape == (24, 40) and small.sum() == 10 * 15


# ---- the small model


@pytest.fixture(scope='module')
def small():
    "The shipped model, looking at small pictures."
    model, _ = load_model('small')
    model.image_config = ImageConfig(
        128, 224, mean=model.image_config.mean, std=model.image_config.std
    )
    return model


@pytest.fixture(scope='module')
def demo():
    "Frames of the demo clip at half its size, and their masks."
    images = [read_image(DEMO / f'frames/{i:05d}.jpg')[:, ::2, ::2] for i in range(6)]
    return Frames(images), [read_mask(DEMO / f'masks/{i:05d}.png')[::2, ::2] for i in range(6)]


FEW = replace(
    SMALL_SEGMENT,
    fine_tune=replace(SMALL_SEGMENT.fine_tune, iterations=3),
    online=True,
    online_every=3,
    online_iterations=1,
)


@pytest.fixture(scope='module')
def followed(small, demo):
    return run(demo[0], {0: demo[1][0]}, FEW, small)


def test_truncated_clip_gives_the_prefix(small, demo, followed):
    "No later frame has any influence; and the same seed gives the same masks, bit for bit."
    short = run(Frames(demo[0].images[:5]), {0: demo[1][0]}, FEW, small)
    assert len(short) == 5 and all(torch.equal(short[i], followed[i]) for i in short)


def test_finds_something_and_leaves_the_model_alone(small, demo, followed):
    fresh, _ = load_model('small')
    assert all(torch.equal(p, fresh.get_parameter(name)) for name, p in small.named_parameters())
    assert torch.equal(followed[0], demo[1][0]) and all(followed[i].any() for i in followed)


def test_another_seed_gives_other_weights(small, demo):
    def tuned(seed):
        config = replace(FEW, seed=seed, fine_tune=FineTuneConfig(1, 1))
        return Follower(tracker(config, small), demo[0][0], demo[1][0] == 1, 1).tuned

    a, b, c = map(tuned, (1, 1, 2))
    name = 'roi_heads.box_predictor.cls_score.weight'
    assert torch.equal(a[name], b[name]) and not torch.equal(a[name], c[name])


def test_one_pixel_object(small, demo):
    mask = torch.zeros_like(demo[1][0])
    mask[50, 70] = 9
    result = run(Frames(demo[0].images[:3]), {0: mask}, FEW, small)
    assert torch.equal(result[0], mask) and all(
        set(ids.unique().tolist()) <= {0, 9} for ids in result.values()
    )


def test_two_objects_with_the_small_model(small, demo):
    mask = demo[1][0] * 3
    mask[10:60, 10:80][mask[10:60, 10:80] == 0] = 7
    result = run(Frames(demo[0].images[:3]), {0: mask}, FEW, small)
    assert torch.equal(result[0], mask) and all(
        set(ids.unique().tolist()) <= {0, 3, 7} for ids in result.values()
    )


def test_overfits_a_still_picture(small, demo):
    "Eight steps on a frame, then the same frame again: the mask comes back."
    config = replace(SMALL_SEGMENT, fine_tune=replace(SMALL_SEGMENT.fine_tune, iterations=8))
    result = dict(
        follow(tracker(config, small, 4e-3), Frames(demo[0].images[:1] * 3), {0: demo[1][0]})
    )
    assert jaccard((result[2] == 1).numpy(), (demo[1][0] == 1).numpy()) > 0.6


def test_the_presets_differ():
    assert (
        PAPER_SEGMENT.extra_boxes == 500
        and PAPER_SEGMENT.fine_tune.batch == 3
        and SMALL_SEGMENT.fine_tune.batch == 1
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_search_window_lies_in_the_frame_has_its_shape_and_holds_the_box(data):
    h, w = data.draw(st.integers(20, 500)), data.draw(st.integers(20, 900))
    (x1, x2), (y1, y2) = (
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
        for n in (w, h)
    )
    fill, zoom = data.draw(st.floats(0.05, 1)), data.draw(st.floats(1, 4))
    rows, columns = search_window(torch.tensor([x1, y1, x2, y2]).float(), (h, w), fill, zoom)
    assert (
        0 <= rows.start <= y1
        and y2 <= rows.stop <= h
        and 0 <= columns.start <= x1
        and x2 <= columns.stop <= w
    )
    assert abs((rows.stop - rows.start) / h - (columns.stop - columns.start) / w) < 1 / h + 1 / w
    assert rows.stop - rows.start >= int(h / zoom) and (
        fill < 1 or max((x2 - x1) / w, (y2 - y1) / h) <= (rows.stop - rows.start + 1) / h
    )


def test_follower_looks_at_a_window_until_the_object_is_lost():
    clip, ids = scene(lambda i: (10, 10) if i != 3 else None)
    model = Scripted()
    shapes = []
    forward = model.forward
    model.forward = lambda images, *rest, **more: (
        shapes.append(tuple(images[0].shape[-2:])),
        forward(images, *rest, **more),
    )[1]
    found = [
        mask for _, mask in follow(tracker(replace(QUICK, fill=0.5), model), clip, {0: ids[0]})
    ]
    assert (
        shapes[0] == shapes[2] and shapes[0][0] < H and shapes[0][1] < W
    )  # frames 1 and 3: around the last box
    assert (
        shapes[3] == (H, W) and shapes[4] == shapes[0]
    )  # frame 4: lost in frame 3; frame 5: found again
    assert all((mask == i).all() for mask, i in zip(found, ids))


# ---- too large to be true


def found(*areas):
    "Detections of these areas, all at one place, the first with the best score."
    sides = torch.tensor(areas, dtype=torch.float32).sqrt()
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], 1)
    return dict(boxes=boxes, scores=torch.linspace(0.9, 0.5, len(areas)))


@pytest.mark.parametrize(
    'areas, limit, chosen',
    [((100, 25), 1e9, [0]), ((100, 25), 50, [1]), ((100, 81), 50, []), ((25,), 25, [0])],
)
def test_no_detection_beyond_the_limit(areas, limit, chosen):
    assert select_detection(found(*areas), torch.tensor([0.0, 0, 5, 5]), 0, limit) == chosen


class Jumping(Scripted):
    "Finds a small square while it is there, and else the whole picture."

    def forward(self, images, targets=None, extra_boxes=None, generator=None, choose=None):
        mask = images[0][0] > 0.5
        mask = mask if mask.any() else torch.ones_like(mask)
        one = dict(boxes=masks_to_boxes(mask[None]), scores=torch.tensor([0.6]))
        return [
            dict(
                **{name: o[choose(one)] for name, o in one.items()},
                masks=mask[None][choose(one)].float(),
            )
        ]


def test_a_lost_object_does_not_become_the_whole_picture():
    clip, truth = scene(leaving, size=3)
    wild = run(clip, {0: truth[0]}, QUICK, Jumping())
    tame = run(clip, {0: truth[0]}, replace(QUICK, max_growth=8.0), Jumping())
    assert wild[3].all() and not tame[3].any()
    assert all(torch.equal(tame[i], truth[i]) for i in range(8)), 'and it is found again'


def test_what_was_given_may_come_back_at_its_size():
    "A sliver is left behind a tree; the whole object is not too large afterwards."
    clip, truth = scene(upper, size=8)
    for i in (2, 3):
        clip.images[i][:, :, :] = 0.1
        clip.images[i][:, 2, 4:6] = 0.8
    result = run(clip, {0: truth[0]}, replace(QUICK, max_growth=4.0), Jumping())
    assert result[3].sum() == 2 and torch.equal(result[4], truth[4])


@pytest.mark.parametrize(
    'name, value',
    [
        ('nearness', -0.1),
        ('nearness', 1.1),
        ('fill', -0.1),
        ('fill', float('nan')),
        ('extra_boxes', -1),
        ('max_growth', -1.0),
        ('online_every', 0),
        ('online_iterations', -1),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected .*, got {value}'):
        SegmentConfig(**{name: value})


# ---- unknown pixels


def test_unknown_pixels_reach_the_loss():
    seen = []

    class Noting(Scripted):
        def forward(self, images, targets=None, **more):
            if targets is not None:
                seen.append(targets[0])
            return super().forward(images, targets, **more)

    clip, truth = scene(upper)
    first = truth[0].clone()
    first[:, -3:] = 255
    view = replace(FineTuneConfig().view, flip=0.0, angle=0.0, scale=(1.0, 1.0))
    config = replace(QUICK, fine_tune=FineTuneConfig(iterations=1, batch=1, view=view))
    run(clip, {0: first}, config, Noting())
    assert torch.equal(seen[0]['masks'][0] == 1, truth[0] == 1) and torch.equal(
        ~seen[0]['valid'], first == 255
    )


# ---- an interrupted run

ONLINE = replace(QUICK, online=True, online_every=3, online_iterations=1)


@pytest.mark.parametrize('config', [QUICK, ONLINE, replace(ONLINE, online_reset='none')])
@pytest.mark.parametrize('stop', [1, 3, 6])
def test_goes_on_where_it_was(tmp_path, monkeypatch, config, stop):
    "Whatever the moment: masks and weights are those of a run that was never interrupted."
    monkeypatch.setattr(module, '_SAVE_SECONDS', 0.0)
    clip, truth = scene(upper, lower)
    masks = {2: truth[2] * (truth[2] == 1), 4: truth[4] * (truth[4] == 2)}
    whole, model = Scripted(), Scripted()
    expected = dict(follow(tracker(config, whole, 0.1), clip, masks))
    saved, result = tmp_path / 'unfinished.pt', {}
    for i, ids in follow(tracker(config, model, 0.1), clip, masks, saved=saved):
        result[i] = ids
        if len(result) == stop:
            break
    rest = dict(follow(tracker(config, model, 0.1), clip, masks, saved=saved))
    assert len(rest) == 8 - stop + 1, 'the frame at which it was interrupted, and all after it'
    result |= rest
    assert sorted(result) == list(range(8)) and all(
        torch.equal(result[i], expected[i]) for i in expected
    )
    assert model.seen[-1] == whole.seen[-1]


def test_another_run_is_refused(tmp_path):
    clip, truth = scene(upper)
    saved = tmp_path / 'unfinished.pt'
    run = follow(tracker(), clip, {0: truth[0]}, saved=saved)
    next(run), next(run)  # the first frame is done and kept
    before = saved.read_bytes()
    others = [
        (replace(QUICK, seed=2), {0: truth[0]}, 1e-3),
        (QUICK, {1: truth[0]}, 1e-3),
        (QUICK, {0: truth[1]}, 1e-3),
        (QUICK, {0: truth[0]}, 2e-3),
    ]
    for config, masks, rates in others:
        with pytest.raises(
            ValueError, match='unfinished.pt: cannot go on from it: it belongs to other'
        ):
            next(follow(tracker(config, rates=rates), clip, masks, saved=saved))
    assert saved.read_bytes() == before
    saved.write_bytes(b'no checkpoint')
    with pytest.raises(ValueError, match='unfinished.pt: cannot go on from it'):
        next(follow(tracker(), clip, {0: truth[0]}, saved=saved))


def test_write_results_goes_on_and_refuses_others(tmp_path):
    clip, truth = scene(upper)
    clip.times = [Fraction(i, 24) for i in range(9)]

    class Stop(Exception):
        pass

    def watch(items, what, count):
        assert count == 8
        for n, item in enumerate(items):
            if n == 3:
                raise Stop
            yield item

    with pytest.raises(Stop):
        write_results(tracker(), clip, {0: truth[0]}, tmp_path / 'out', watch)
    written = {p.name: p.read_bytes() for p in (tmp_path / 'out/masks').iterdir()}
    assert len(written) == 3 and (tmp_path / 'out/unfinished.pt').exists()
    write_results(tracker(), clip, {0: truth[0]}, tmp_path / 'out')
    assert (
        len(list((tmp_path / 'out/masks').iterdir())) == 8
        and not (tmp_path / 'out/unfinished.pt').exists()
    )
    assert all(
        (tmp_path / 'out/masks' / name).read_bytes() == data for name, data in written.items()
    )
    with pytest.raises(ValueError, match='expected no results in it, got 9 files'):
        write_results(tracker(), clip, {0: truth[0]}, tmp_path / 'out')


def test_a_video_that_cannot_be_written_is_told_at_once(tmp_path, monkeypatch):
    clip, truth = scene(upper)
    clip.times = [Fraction(i, 24) for i in range(9)]
    failed = Event()

    def full(*_):
        failed.set()
        raise ValueError('overlay.mp4 cannot be written: no space')

    def watch(items, what, count):
        for item in items:
            assert failed.wait(60)
            sleep(0.1)
            yield item

    monkeypatch.setattr(module, 'write_video', full)
    with pytest.raises(ValueError, match='no space'):
        write_results(tracker(), clip, {0: truth[0]}, tmp_path / 'out', watch)
    assert (tmp_path / 'out/unfinished.pt').exists()
    assert len(list((tmp_path / 'out/masks').iterdir())) < 8


# ---- the door


def test_one_call(tmp_path):
    quick = replace(
        load('small', 'cpu'), config=replace(SMALL_SEGMENT, fine_tune=FineTuneConfig(0))
    )
    for i in range(2):
        (tmp_path / f'{i}.jpg').write_bytes((DEMO / f'frames/{i:05d}.jpg').read_bytes())
    found = dict(eosvos.segment(tmp_path, DEMO / 'masks/00000.png', tracker=quick))
    assert list(found) == ['0', '1'] and torch.equal(
        found['0'], read_mask(DEMO / 'masks/00000.png')
    )
    assert eosvos.segment(tmp_path, DEMO / 'masks/00000.png', tmp_path / 'out', quick) is None
    assert all(
        torch.equal(read_mask(tmp_path / f'out/masks/{name}.png'), ids)
        for name, ids in found.items()
    )


def test_the_door_is_light():
    "Nothing heavy is loaded before a name is asked for; how threads wait is set before torch."
    code = """import os, sys
import eosvos
heavy = {'torch', 'matplotlib'} & set(sys.modules)
print(os.environ['OMP_WAIT_POLICY'], heavy, 'load' in dir(eosvos))"""
    bare = {name: value for name, value in os.environ.items() if name != 'OMP_WAIT_POLICY'}
    for policy, environment in (
        ('passive', bare),
        ('active', bare | {'OMP_WAIT_POLICY': 'active'}),
    ):
        done = subprocess.run(
            [sys.executable, '-c', code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [policy, 'set()', 'True']


def test_a_command_loads_no_more_of_torchvision_than_its_kernels():
    "All of it would import PyTorch's compiler, as random draws on the device meta do."
    code = """import sys
import eosvos.cli
from eosvos.follow import load
load('small', 'cpu')
print({'torchvision', 'torch._dynamo', 'matplotlib'} & set(sys.modules))"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['set()']
