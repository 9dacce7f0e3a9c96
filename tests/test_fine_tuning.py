"Fine-tuning: views of a picture, then plain SGD on weights that live beside the model."

import weakref
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms.v2 import functional as tf

from eosvos.core import DEMO, generator, masks_to_boxes
from eosvos.fine_tuning import (
    AugmentConfig,
    FineTuneConfig,
    _colour_jitter,
    _turn_hue,
    as_target,
    augment,
    augmented_batches,
    beside,
    fine_tune,
    initial_weights,
    inner_step,
    loss_gradient,
    uniform,
    warp,
)
from eosvos.follow import follow, load
from eosvos.mask_rcnn import ImageConfig
from eosvos.small import PAPER, build
from eosvos.video import VOID, read_image, read_mask
from eosvos.weights import load_model

# ---- the mask moves with the picture, and every draw comes from the generator that was passed in

quick = settings(max_examples=25, deadline=None)
STRONG = AugmentConfig(angle=45, scale=(0.5, 2), shift=0.2, colour=0.3, hue=0.1)
STILL = AugmentConfig(flip=0, angle=0, scale=(1, 1))


def picture(size, box=None, seed=0):
    "A noisy picture and the mask of one box (x1, y1, x2, y2)."
    mask = torch.zeros(1, *size, dtype=torch.bool)
    if box:
        mask[:, box[1] : box[3], box[0] : box[2]] = True
    return torch.rand(3, *size, generator=generator(seed)), mask


@st.composite
def scenes(draw):
    "A picture of any shape with a box in it."
    h, w = draw(st.integers(8, 48)), draw(st.integers(8, 48))
    x, y = draw(st.integers(0, w - 1)), draw(st.integers(0, h - 1))
    return picture((h, w), (x, y, draw(st.integers(x + 1, w)), draw(st.integers(y + 1, h))))


@quick
@given(scenes(), st.integers(0, 10**6))
def test_mask_moves_with_the_picture(scene, seed):
    "A picture that shows its own mask still does so afterwards."
    _, mask = scene
    image, moved = augment(mask.float().expand(3, -1, -1), mask, AugmentConfig(), generator(seed))
    sure = (image[0] < 0.01) | (image[0] > 0.99)  # between them lies the border, which is blurred
    assert torch.equal((image[0] > 0.5)[sure], moved[0][sure])
    assert moved.dtype == torch.bool and moved.any()


@quick
@given(scenes(), st.integers(0, 10**6))
def test_box_is_the_box_of_the_moved_mask(scene, seed):
    "Tight: each of its four sides touches the mask, and none of the mask is outside."
    _, moved = augment(*scene, STRONG, generator(seed))
    x1, y1, x2, y2 = masks_to_boxes(moved)[0].int().tolist()
    inside = moved[0, y1:y2, x1:x2]
    assert inside.sum() == moved.sum() > 0
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@quick
@given(scenes(), st.integers(0, 10**6))
def test_box_of_a_flip(scene, seed):
    image, mask = scene
    view, moved = augment(
        image, mask, AugmentConfig(flip=1, angle=0, scale=(1, 1)), generator(seed)
    )
    x1, y1, x2, y2 = masks_to_boxes(mask)[0].tolist()
    assert masks_to_boxes(moved)[0].tolist() == [mask.shape[2] - x2, y1, mask.shape[2] - x1, y2]
    torch.testing.assert_close(view, image.flip(2), rtol=0, atol=1e-4)


@quick
@given(scenes(), st.integers(0, 10**6))
def test_equal_generators_give_equal_views(scene, seed):
    a, b = (augment(*scene, STRONG, generator(seed)) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_other_generators_give_other_views():
    scene = picture((40, 60), (10, 10, 30, 30))
    views = [augment(*scene, STRONG, generator(i))[0] for i in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i])


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    augment(*picture((20, 20), (5, 5, 15, 15)), STRONG, generator(0))
    assert torch.equal(state, torch.get_rng_state())


@quick
@given(scenes(), st.integers(0, 10**6))
def test_nothing_to_vary_is_the_identity(scene, seed):
    image, mask = scene
    view, moved = augment(image, mask, STILL, generator(seed))
    torch.testing.assert_close(view, image, rtol=0, atol=1e-4)
    assert torch.equal(moved, mask)


@quick
@given(scenes(), st.integers(0, 10**6))
def test_empty_masks_stay_empty_and_in_their_places(scene, seed):
    image, mask = scene
    _, moved = augment(
        image,
        torch.cat([torch.zeros_like(mask), mask, torch.zeros_like(mask)]),
        STRONG,
        generator(seed),
    )
    assert moved.any(dim=(1, 2)).tolist() == [False, True, False]
    assert masks_to_boxes(moved)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    'masks', [torch.zeros(0, 12, 16, dtype=torch.bool), torch.zeros(2, 12, 16, dtype=torch.bool)]
)
def test_without_any_object(masks):
    image, moved = augment(torch.rand(3, 12, 16), masks, STRONG, generator(0))
    assert image.shape == (3, 12, 16) and moved.shape == masks.shape and not moved.any()


@quick
@given(st.integers(0, 29), st.integers(0, 39), st.integers(0, 10**6))
def test_one_pixel_survives(y, x, seed):
    _, moved = augment(*picture((30, 40), (x, y, x + 1, y + 1)), AugmentConfig(), generator(seed))
    assert moved.any()


@quick
@given(scenes(), st.integers(0, 10**6))
def test_pictures_stay_in_range(scene, seed):
    image, _ = augment(*scene, STRONG, generator(seed))
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 + 1e-6


def test_zoom_is_a_zoom():
    "Twice as large: four times the pixels, around the same centre."
    image, mask = picture((64, 64), (24, 24, 40, 40))
    _, moved = augment(image, mask, AugmentConfig(flip=0, angle=0, scale=(2, 2)), generator(0))
    assert masks_to_boxes(moved)[0].tolist() == [16, 16, 48, 48]


@pytest.mark.parametrize('angle', [-30, 20, 90])
def test_a_flip_mirrors_first_and_turns_then(angle):
    "A rigid motion of the mirrored picture: nothing is sheared."
    size, image = (31, 45), torch.rand(3, 31, 45, generator=generator('flip'), dtype=torch.float64)
    flipped = warp(image, size, angle, zoom=1.2, flip=True)
    torch.testing.assert_close(
        flipped, warp(image.flip(2), size, angle, zoom=1.2), rtol=0, atol=1e-4
    )


def test_a_shift_goes_right_and_down():
    size, image = (20, 30), torch.rand(3, 20, 30)
    moved = warp(image, size, shift=(3, 2))
    torch.testing.assert_close(moved[:, 2:, 3:], image[:, :-2, :-3], rtol=0, atol=1e-4)


def test_a_view_moves_by_its_share_of_each_side():
    "A fifth of 40 x 200 pixels: up to 8 down or up, up to 40 right or left, and nearly reached."
    scene, config = (
        picture((40, 200), (95, 15, 105, 25)),
        AugmentConfig(flip=0, angle=0, scale=(1, 1), shift=0.2),
    )
    boxes = torch.cat([masks_to_boxes(augment(*scene, config, generator(i))[1]) for i in range(60)])
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([100, 20])).unbind(1)
    assert 32 < x.max() <= 41 and -32 > x.min() >= -41
    assert 6 < y.max() <= 9 and -6 > y.min() >= -9


def test_canvas_of_another_shape():
    image, mask = picture((30, 60), (20, 5, 40, 25))
    view, moved = augment(image, mask, STILL, generator(0), size=(60, 120))
    assert view.shape == (3, 60, 120) and masks_to_boxes(moved)[0].tolist() == [40, 10, 80, 50]


def test_there_and_back():
    size = (32, 32)
    image = torch.rand(3, *size)
    there = warp(image, size, angle=90)
    torch.testing.assert_close(warp(there, size, angle=-90), image, rtol=0, atol=1e-4)
    torch.testing.assert_close(there, torch.rot90(image, 1, (1, 2)), rtol=0, atol=1e-4)


def test_colours_change_only_when_asked():
    image = torch.rand(3, 8, 8)
    assert torch.equal(_colour_jitter(image, AugmentConfig(), generator(0)), image)
    assert not torch.equal(_colour_jitter(image, STRONG, generator(0)), image)


def test_hue_turns_colours_and_leaves_grey_alone():
    image, grey = torch.rand(3, 8, 8), torch.rand(1, 8, 8).expand(3, 8, 8)
    turned, same = (_colour_jitter(x, AugmentConfig(hue=0.2), generator(0)) for x in (image, grey))
    assert (turned - image).abs().max() > 0.05
    torch.testing.assert_close(same, grey, rtol=0, atol=1e-5)
    assert (_colour_jitter(grey, AugmentConfig(colour=0.3), generator(0)) - grey).abs().max() > 0.01


def test_colours_change_as_torchvision_changes_them():
    image, config = 0.3 + 0.3 * torch.rand(3, 8, 8), AugmentConfig(colour=0.3)
    changes = tf.adjust_brightness, tf.adjust_contrast, tf.adjust_saturation
    for seed in range(20):
        random, theirs = generator(seed), image
        for i in torch.randperm(4, generator=random).tolist():
            amount = uniform(random, 0.7, 1.3)
            theirs = changes[i](theirs, amount) if i < 3 else theirs
        ours = _colour_jitter(image, config, generator(seed))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_a_third_of_the_hue_moves_the_channels_on():
    image = torch.rand(3, 8, 8)
    third = torch.einsum('ij, jhw -> ihw', _turn_hue(1 / 3), image)
    torch.testing.assert_close(third, tf.adjust_hue(image, 1 / 3), rtol=0, atol=1e-5)
    tenth = torch.einsum('ij, jhw -> hw', _turn_hue(0.1), image)
    torch.testing.assert_close(tenth, image.sum(0), rtol=0, atol=1e-5)


def test_uniform_stays_between():
    numbers = [uniform(generator(i), -2, 3) for i in range(200)]
    assert -2 <= min(numbers) < -1.5 and 2.5 < max(numbers) <= 3


@pytest.mark.parametrize(
    'name, value',
    [('flip', 1.5), ('colour', -0.1), ('hue', 0.6), ('angle', -1.0), ('scale', (0.0, 1.0))],
)
def test_views_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected'):
        AugmentConfig(**{name: value})


# ---- inner steps


class Toy(nn.Module):
    "Two losses; `bias` needs an object, `noise` shows which random numbers came in."

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3))
        self.bias = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, images, targets, generator=None):
        x = torch.stack([image.double().mean((1, 2)) for image in images])  # (B, 3)
        noise = torch.rand((), generator=generator, dtype=torch.float64) if generator else 0
        losses = dict(first=(x @ self.weight.T).square().sum() * (1 + noise))
        if any(len(t['boxes']) for t in targets):
            losses['second'] = (self.bias - 3).square().sum() * 10
        return losses


@pytest.fixture
def toy():
    return Toy()


@pytest.fixture(scope='module')
def small():
    "The shipped model, looking at small pictures."
    model, _ = load_model('small')
    model.image_config = ImageConfig(
        96, 160, mean=model.image_config.mean, std=model.image_config.std
    )
    return model


@pytest.fixture(scope='module')
def frame():
    "A frame of the demo clip and its mask."
    return read_image(DEMO / 'frames/00000.jpg')[:, ::4, ::4], read_mask(DEMO / 'masks/00000.png')[
        ::4, ::4
    ] == 1


def batches(count, mask=True, seed=0):
    "Batches of two noisy pictures."
    masks = torch.full((4, 5), mask)
    return [
        (
            [torch.rand(3, 4, 5, generator=generator(seed, t, i)) for i in range(2)],
            [as_target(masks)] * 2,
        )
        for t in range(count)
    ]


@pytest.mark.parametrize('clip', [None, 1e9, 3.0])
def test_equals_sgd_of_torch(toy, clip):
    data = batches(5)
    tuned, losses = fine_tune(
        toy, initial_weights(toy), data, FineTuneConfig(clip=clip), ('seed',), 0.02
    )
    optimizer = torch.optim.SGD(toy.parameters(), lr=0.02)
    for t, batch in enumerate(data):
        optimizer.zero_grad()
        expected = toy(*batch, generator=generator('seed', 'sample', t))
        sum(expected.values()).backward()
        assert losses[t] == pytest.approx(
            {name: loss.item() for name, loss in expected.items()}, rel=1e-6
        )
        if clip:
            nn.utils.clip_grad_norm_(toy.parameters(), clip)
        optimizer.step()
    for name, p in toy.named_parameters():
        torch.testing.assert_close(tuned[name], p.detach(), rtol=1e-6, atol=0)


def test_clip_bounds_the_step(toy):
    weights = initial_weights(toy)
    inner_step(toy, weights, batches(1)[0], rates=0.5, clip=2.0)
    moved = torch.cat(
        [(weights[name] - p.detach()).flatten() for name, p in toy.named_parameters()]
    ).norm()
    torch.testing.assert_close(moved.item(), 0.5 * 2.0)


def test_without_an_object_unused_weights_stay(toy):
    weights = initial_weights(toy)
    losses = inner_step(toy, weights, batches(1, mask=False)[0], rates=0.1)
    assert list(losses) == ['first']
    assert torch.equal(weights['bias'], toy.bias) and not torch.equal(weights['weight'], toy.weight)


def test_the_model_is_left_alone(toy):
    before, start = initial_weights(toy), initial_weights(toy)
    tuned, _ = fine_tune(toy, start, batches(3), FineTuneConfig(), ('seed',), 0.1)
    for name, p in toy.named_parameters():
        assert (
            torch.equal(p, before[name])
            and torch.equal(start[name], before[name])
            and not torch.equal(tuned[name], before[name])
        )
        assert (
            p.grad is None
            and p.requires_grad
            and not tuned[name].requires_grad
            and not start[name].requires_grad
        )
        assert tuned[name].data_ptr() != start[name].data_ptr() != p.data_ptr()


def test_live_parameters_are_only_read(toy):
    before, live = initial_weights(toy), dict(toy.named_parameters())
    for count in (0, 2):
        tuned, _ = fine_tune(toy, live, batches(count), FineTuneConfig(), ('seed',), 0.1)
        for name, p in toy.named_parameters():
            own = tuned[name]
            assert p is live[name] and torch.equal(p, before[name])
            assert p.requires_grad and p.grad is None
            assert own.is_leaf and not own.requires_grad and own.data_ptr() != p.data_ptr()
            assert torch.equal(own, before[name]) == (count == 0)


class Normed(Toy):
    "A toy that counts and averages what it sees, as BatchNorm does while it is trained."

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, dtype=torch.float64)

    def forward(self, images, targets, generator=None):
        images = self.norm(torch.stack(images).double()) + 1
        return super().forward(list(images), targets, generator)


OWN = {name: torch.tensor(0.1) for name in ('bias', 'norm.weight', 'norm.bias')}


@pytest.mark.parametrize('rates', [0.1, OWN])  # a frozen weight needs none
def test_frozen_layers_stay_and_buffers_come_back(rates):
    model = Normed()
    model.weight.requires_grad_(False)
    given = initial_weights(model) | {'weight': torch.full((2, 3), 0.5, dtype=torch.float64)}
    start = {name: w.clone() for name, w in given.items()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    tuned, losses = fine_tune(model, given, batches(2), FineTuneConfig(), ('seed',), rates)
    assert list(tuned) == list(given)
    assert {name for name, w in tuned.items() if torch.equal(w, start[name])} == {'weight'}
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert not model.weight.requires_grad and model.bias.requires_grad
    with torch.no_grad():  # the losses are those of what was given, the frozen weight included
        model.weight.copy_(given['weight'])
    expected = model(*batches(1)[0], generator=generator('seed', 'sample', 0))
    assert losses[0] == {name: loss.item() for name, loss in expected.items()}


def test_no_steps_are_the_start(toy):
    tuned, losses = fine_tune(toy, initial_weights(toy), [], FineTuneConfig(), ('seed',), 0.1)
    assert losses == [] and all(torch.equal(tuned[name], p) for name, p in toy.named_parameters())


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_losses_that_are_no_numbers_are_refused(toy, value):
    weights = initial_weights(toy)
    ((images, targets),) = batches(1)
    before = {name: w.clone() for name, w in weights.items()}
    with pytest.raises(FloatingPointError, match="not finite: {'first': (nan|inf)"):
        inner_step(toy, weights, ([images[0] * value], targets), 0.1)
    assert all(torch.equal(weights[name], w) for name, w in before.items())
    assert not any(w.requires_grad for w in weights.values())


def test_settings_cannot_be_changed_by_accident():
    with pytest.raises(FrozenInstanceError):
        FineTuneConfig().lr = 1


# ---- views of one frame


def test_views_depend_on_their_key_alone(frame):
    config = FineTuneConfig(iterations=3, batch=2)
    a, b, c = (
        list(augmented_batches(*frame, config, key)) for key in [(1, 'x'), (1, 'x'), (2, 'x')]
    )
    assert len(a) == 3 and all(len(images) == len(targets) == 2 for images, targets in a)
    pictures = [torch.stack([image for images, _ in run for image in images]) for run in (a, b, c)]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    assert len({image.sum().item() for image in pictures[0]}) == 6, 'all six differ'


def test_fewer_steps_see_the_same_views(frame):
    short, long = (
        list(augmented_batches(*frame, FineTuneConfig(iterations=n, batch=1), ('key',)))
        for n in (2, 4)
    )
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(short, long))


def test_views_without_change_are_the_frame(frame):
    ((images, targets),) = augmented_batches(
        *frame, FineTuneConfig(1, 1, view=AugmentConfig(flip=0, angle=0, scale=(1, 1))), ('key',)
    )
    torch.testing.assert_close(images[0], frame[0], rtol=0, atol=1e-4)
    assert torch.equal(targets[0]['masks'][0].bool(), frame[1])


def test_something_else_over_a_copy_hides_the_object(frame):
    image, mask = frame
    other = torch.zeros_like(image), mask  # black, so that it can be told
    for i in range(20):
        picture, own = beside(image, mask, [other], 1.0, generator('beside', i))
        assert not (own & ~mask).any() and 2 * own.sum() >= mask.sum()
        assert not picture[:, mask & ~own].any(), 'what is hidden shows the other'
        assert torch.equal(picture[:, own], image[:, own]), 'what is left shows the object'


def test_what_would_hide_most_of_the_object_is_not_pasted(frame):
    image, mask = frame
    dot = torch.zeros_like(mask)
    dot[tuple(mask.nonzero()[len(mask.nonzero()) // 2])] = True
    everything = torch.zeros_like(image), torch.ones_like(mask)
    drawn = [beside(image, dot, [everything], 1.0, generator('all', i)) for i in range(5)]
    assert all(torch.equal(own, dot) for _, own in drawn)
    assert any(picture is image for picture, _ in drawn), 'it would have been hidden'


def test_collages_change_no_other_draw(frame):
    "Without others, and without chance, the copies are those of before."
    config = FineTuneConfig(iterations=3, batch=1)
    plain = [images[0] for images, _ in augmented_batches(*frame, config, ('key',))]
    pasted = replace(config, paste=1.0)
    for how, others in ((pasted, []), (config, [frame])):
        same = augmented_batches(*frame, how, ('key',), others)
        assert all(torch.equal(a, images[0]) for a, (images, _) in zip(plain, same))
    blue = frame[0].flip(0), frame[1]
    copies = augmented_batches(*frame, pasted, ('key',), [blue])
    assert not all(torch.equal(a, images[0]) for a, (images, _) in zip(plain, copies))


def test_targets():
    mask = torch.zeros(6, 8, dtype=torch.bool)
    empty = as_target(mask)
    assert (
        empty['boxes'].shape == (0, 4)
        and empty['labels'].shape == (0,)
        and empty['masks'].shape == (0, 6, 8)
    )
    mask[2, 3] = True
    dot = as_target(mask)
    assert dot['boxes'].tolist() == [[3, 2, 4, 3]] and dot['labels'].tolist() == [1]
    assert (
        dot['labels'].dtype == torch.int64
        and dot['masks'].dtype == torch.uint8
        and dot['masks'].sum() == 1
    )
    assert dot.keys() == {'boxes', 'labels', 'masks'}


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_targets_of_masks_with_unknown_pixels(dtype):
    ids = torch.zeros(4, 5, dtype=dtype)
    assert as_target(ids).keys() == {'boxes', 'labels', 'masks'}
    assert as_target(ids)['masks'].shape == (0, 4, 5)
    ids[1:3, 2], ids[0] = 1, VOID
    target = as_target(ids)
    assert target['boxes'].tolist() == [[2, 1, 3, 3]]
    assert target['masks'].dtype == torch.uint8 and target['masks'].sum() == 2
    assert target['valid'].dtype == torch.bool
    assert target['valid'].tolist() == [[False] * 5] + [[True] * 5] * 3
    ids[ids == 1] = VOID
    assert as_target(ids)['masks'].shape == (0, 4, 5) and as_target(ids)['valid'].sum() == 13


# ---- the small model


def test_steps_lower_the_loss_and_repeat_exactly(small, frame):
    config = FineTuneConfig(
        iterations=6, batch=1, clip=10.0, view=AugmentConfig(flip=0, angle=0, scale=(1, 1))
    )
    (a, first), (b, second) = (
        fine_tune(
            small,
            initial_weights(small),
            augmented_batches(*frame, config, (1,)),
            config,
            (1,),
            2e-3,
        )
        for _ in range(2)
    )
    assert first == second and all(torch.equal(a[name], b[name]) for name in a)
    assert set(first[0]) == {
        'loss_objectness',
        'loss_rpn_box_reg',
        'loss_classifier',
        'loss_box_reg',
        'loss_mask',
    }
    assert sum(first[-1].values()) < sum(first[0].values())


@pytest.mark.parametrize('pixels', [0, 1])
def test_hardly_an_object(small, frame, pixels):
    mask = torch.zeros_like(frame[1])
    mask[40, 60] = bool(pixels)
    weights = initial_weights(small)
    losses = inner_step(
        small, weights, ([frame[0]], [as_target(mask)]), rates=1e-3, random=generator(0)
    )
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert (losses['loss_mask'] > 0) == (losses['loss_box_reg'] > 0) == bool(pixels)


@pytest.mark.parametrize(
    'name, value',
    [('iterations', -1), ('batch', 0), ('clip', 0.0), ('clip', -1.0), ('clip', float('nan'))],
)
def test_numbers_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected at least .*, got {value}'):
        FineTuneConfig(**{name: value})


# ---- copy by copy


class Peak(TorchDispatchMode):
    "`with Peak() as peak:` counts the bytes that are made; `peak.most` stood there at once."

    def __enter__(self):
        self.now, self.most, self.known = 0, 0, set()
        return super().__enter__()

    def forget(self, key, size):
        self.known.remove(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.known:
                key, size = storage._cdata, storage.nbytes()
                self.known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.forget, key, size)
        return result


def thin():
    "The full model with few channels, random, which looks at small pictures."
    roi = replace(PAPER.roi, box_width=64, mask_width=16, samples=32)
    image = replace(PAPER.image, min_side=64, max_side=112)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(replace(PAPER, channels=16, image=image, roi=roi))


@pytest.mark.parametrize('name', ['small', 'thin'])
def test_a_gradient_copy_by_copy_is_that_of_the_batch(name, frame):
    "With unknown pixels in one, no object in another, and pictures of several shapes."
    image, mask = frame
    ids = mask.byte()
    ids[:20] = VOID
    views = [(image, ids), (image.flip(2), mask.flip(1)), (image[:, 9:], 0 * ids[9:])]
    batch = [view.double() for view, _ in views], [as_target(own) for _, own in views]
    model = (load_model('small')[0] if name == 'small' else thin()).double()
    random, weights = generator('other weights'), initial_weights(model)
    for w in weights.values():  # not those of the model
        w *= 1 + 0.1 * torch.rand(w.shape, generator=random)
    once, losses = loss_gradient(model, weights, batch, None, generator('draws'))
    model.accumulate = True
    again, same = loss_gradient(model, weights, batch, None, generator('draws'))
    assert same == pytest.approx(losses, rel=1e-12) and losses['loss_mask'] > 0
    for key, gradient in once.items():
        assert (again[key] - gradient).norm() <= 1e-10 * gradient.norm() and gradient.norm() > 0
    other, _ = loss_gradient(model, weights, batch, None, generator('others'))
    assert not torch.equal(other['rpn.head.cls_logits.weight'], again['rpn.head.cls_logits.weight'])


def test_copy_by_copy_takes_less_memory(frame):
    model, most = load_model('small')[0], {}
    model.image_config = replace(model.image_config, min_side=192, max_side=336)
    weights = initial_weights(model)
    for copies in (1, 3):
        for accumulate in (False, True):
            config = FineTuneConfig(1, copies, accumulate)
            batches = list(augmented_batches(*frame, config, ('memory',)))
            with Peak() as peak:
                fine_tune(model, weights, batches, config, ('memory',), 1e-3)
            most[copies, accumulate] = peak.most
    copy, copy_by_copy = ((most[3, way] - most[1, way]) / 2 for way in (False, True))
    assert copy_by_copy < 0.3 * copy and most[3, True] < 0.6 * most[3, False], most


# ---- precision


# at learned rates, a few more steps make of float32's own rounding another mask
@pytest.mark.parametrize('name, steps', [('parent-group', 1), ('small', 2)])
def test_an_object_is_followed_in_bfloat16_as_in_float32(name, steps):
    clip = [read_image(DEMO / f'frames/{i:05d}.jpg')[:, ::2, ::2] for i in range(3)]
    given, found = {0: read_mask(DEMO / 'masks/00000.png')[::2, ::2]}, {}
    for precision in 'float32', 'bf16':
        tracker = load(name, 'cpu')
        config = replace(tracker.config, fine_tune=FineTuneConfig(steps, 1, clip=10.0))
        model = tracker.model
        model.precision = precision
        model.image_config = replace(model.image_config, min_side=128, max_side=224)
        frames = follow(replace(tracker, config=config), clip, given)
        found[precision] = [ids == 1 for _, ids in frames]
    for i, (exact, rough) in enumerate(zip(found['float32'], found['bf16'], strict=True)):
        assert (exact & rough).sum() > 0.9 * (exact | rough).sum() > 0
        assert torch.equal(exact, rough) == (i == 0)  # the first mask is given
