"Views of a picture: the mask moves with it, and every draw comes from the generator that was passed in."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eosvos.augment import AugmentConfig, affine, augment, colour_jitter, uniform, warp
from eosvos.core import generator, masks_to_boxes

quick = settings(max_examples=25, deadline=None)
STRONG = AugmentConfig(angle=45, scale=(0.5, 2), shift=0.2, colour=0.3, hue=0.1)
STILL = AugmentConfig(flip=0, angle=0, scale=(1, 1))


def picture(size, box=None, seed=0):
    "A noisy picture and the mask of one box (x1, y1, x2, y2)."
    mask = torch.zeros(1, *size, dtype=torch.bool)
    if box: mask[:, box[1]:box[3], box[0]:box[2]] = True
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
    "A picture that shows its own mask still does so afterwards, so the box of the mask is the box of what is seen."
    _, mask = scene
    image, moved = augment(mask.float().expand(3, -1, -1), mask, AugmentConfig(), generator(seed))
    sure = (image[0] < 0.01) | (image[0] > 0.99)     # between them lies the border, which is blurred
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
    view, moved = augment(image, mask, AugmentConfig(flip=1, angle=0, scale=(1, 1)), generator(seed))
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
    _, moved = augment(image, torch.cat([torch.zeros_like(mask), mask, torch.zeros_like(mask)]), STRONG, generator(seed))
    assert moved.any(dim=(1, 2)).tolist() == [False, True, False]
    assert masks_to_boxes(moved)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize('masks', [torch.zeros(0, 12, 16, dtype=torch.bool), torch.zeros(2, 12, 16, dtype=torch.bool)])
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
    flipped, turned = affine(angle, 1.2, True, size, size), affine(angle, 1.2, False, size, size)
    torch.testing.assert_close(warp(image, flipped, size), warp(image.flip(2), turned, size), rtol=0, atol=1e-4)


def test_a_shift_goes_right_and_down():
    size, image = (20, 30), torch.rand(3, 20, 30)
    moved = warp(image, affine(0, 1, False, size, size, (3, 2)), size)
    torch.testing.assert_close(moved[:, 2:, 3:], image[:, :-2, :-3], rtol=0, atol=1e-4)


def test_a_view_moves_by_its_share_of_each_side():
    "A fifth of a canvas of 40 x 200 pixels: up to 8 down or up, up to 40 right or left, and now and then nearly so."
    scene, config = picture((40, 200), (95, 15, 105, 25)), AugmentConfig(flip=0, angle=0, scale=(1, 1), shift=0.2)
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
    there, back = affine(90, 1, False, size, size), affine(-90, 1, False, size, size)
    image = torch.rand(3, *size)
    torch.testing.assert_close(warp(warp(image, there, size), back, size), image, rtol=0, atol=1e-4)
    torch.testing.assert_close(warp(image, there, size), torch.rot90(image, 1, (1, 2)), rtol=0, atol=1e-4)


def test_colours_change_only_when_asked():
    image = torch.rand(3, 8, 8)
    assert torch.equal(colour_jitter(image, AugmentConfig(), generator(0)), image)
    assert not torch.equal(colour_jitter(image, STRONG, generator(0)), image)


def test_hue_turns_colours_and_leaves_grey_alone():
    image, grey = torch.rand(3, 8, 8), torch.rand(1, 8, 8).expand(3, 8, 8)
    turned, same = (colour_jitter(x, AugmentConfig(hue=0.2), generator(0)) for x in (image, grey))
    assert (turned - image).abs().max() > 0.05
    torch.testing.assert_close(same, grey, rtol=0, atol=1e-5)
    assert (colour_jitter(grey, AugmentConfig(colour=0.3), generator(0)) - grey).abs().max() > 0.01


def test_uniform_stays_between():
    numbers = [uniform(generator(i), -2, 3) for i in range(200)]
    assert -2 <= min(numbers) < -1.5 and 2.5 < max(numbers) <= 3


@pytest.mark.parametrize('name, value', [('flip', 1.5), ('colour', -0.1), ('hue', 0.6), ('angle', -1.0), ('scale', (0.0, 1.0)), ('tries', 0)])
def test_numbers_that_cannot_be_meant_are_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected'): AugmentConfig(**{name: value})
