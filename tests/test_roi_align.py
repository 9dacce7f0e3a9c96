"RoIAlign: laws, and parity with torchvision on random inputs."

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops
from torchvision.ops.poolers import LevelMapper

from eosvos.core import generator
from eosvos.roi_align import assign_levels, pool_rois, roi_align

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 10**6)


def _axis(start, stop, size, samples, length):
    "For each sample point along one axis, the two features it reads and what they count."
    cell = ((stop - start).clamp(min=1) / size)[:, None, None]  # (N, 1, 1)
    count = torch.full_like(cell, samples) if samples else cell.detach().ceil()
    k = torch.arange(int(count.max()), device=start.device)  # points of a cell
    i = torch.arange(size, device=start.device)[:, None]  # cells
    at = start[:, None, None] + (i + (k + 0.5) / count) * cell  # (N, S, K)
    counts = (at >= -1) & (at <= length) & (k < count)
    at = at.clamp(0, length - 1)
    low = at.detach().floor()
    index = torch.stack([low, (low + 1).clamp(max=length - 1)], -1).long()
    weight = torch.stack([low + 1 - at, at - low], -1) * (counts / count)[..., None]
    return index.flatten(1, 2), weight.flatten(1, 2)


def roi_align_plain(features, rois, size, scale, samples):
    "RoIAlign in plain PyTorch, as on the page: what the kernels are compared with."
    C, H, W = features.shape[1:]
    if len(rois) == 0:
        return features.new_zeros(0, C, size, size)
    image, (x1, y1, x2, y2) = rois[:, 0].long(), (scale * rois[:, 1:]).unbind(1)
    y, y_weight = _axis(y1, y2, size, samples, H)  # (N, P, 2)
    x, x_weight = _axis(x1, x2, size, samples, W)  # (N, Q, 2)
    result = 0
    for a in range(2):  # upper and lower neighbour
        for b in range(2):  # left and right
            # (N, P, Q, C) and (N, P, Q, 1)
            corner = features[image[:, None, None], :, y[:, :, None, a], x[:, None, :, b]]
            weight = (y_weight[:, :, None, a] * x_weight[:, None, :, b])[..., None]
            cells = (corner * weight).unflatten(2, (size, -1)).unflatten(1, (size, -1))
            result = result + cells.sum((2, 4))
    return result.permute(0, 3, 1, 2)  # (N, S, S, C) -> (N, C, S, S)


both = pytest.mark.parametrize('align', [roi_align_plain, roi_align])


def random_features(draws, shape, dtype=torch.float64):
    return torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype)


def random_rois(draws, count, images, height, width, dtype=torch.float64):
    "RoIs (count, 5): many partly or wholly outside the image, some of less than a pixel."
    place = torch.rand(count, 2, generator=draws, dtype=torch.float64)
    centre = (place * 1.6 - 0.3) * torch.tensor([width, height])
    power = torch.rand(count, 2, generator=draws, dtype=torch.float64)
    half = 2 ** (power * 9 - 3)  # 1/8 to 64 pixels
    index = torch.randint(images, (count, 1), generator=draws)
    return torch.cat([index, centre - half, centre + half], 1).to(dtype)


# ---- both versions


@quick
@given(
    seeds,
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 0]),
    st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-12)]),
)
def test_both_versions_agree(seed, shape, size, samples, precision):
    (dtype, tolerance), draws = precision, generator(seed)
    features = random_features(draws, shape, dtype)
    rois = random_rois(draws, 4, shape[0], shape[2] * 8, shape[3] * 8, dtype)
    ours, fast = (f(features, rois, size, 1 / 8, samples) for f in (roi_align_plain, roi_align))
    torch.testing.assert_close(ours, fast, rtol=0, atol=tolerance)


@quick
@given(
    seeds,
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from([2, 0]),
    st.sampled_from([1 / 4, 1 / 32, 1.0]),
)
def test_vectorised_agrees_at_usual_sizes(seed, size, count, samples, scale):
    draws = generator(seed)
    features, rois = (
        random_features(draws, (2, 3, 20, 30)),
        random_rois(draws, count, 2, 20 / scale, 30 / scale),
    )
    ours, fast = (f(features, rois, size, scale, samples) for f in (roi_align_plain, roi_align))
    torch.testing.assert_close(ours, fast, rtol=0, atol=1e-12)


@both
@pytest.mark.parametrize(
    'box, value',
    [
        ([-2.0, -2, 0, 0], 3),
        ([-2.1, -2, -0.1, 0], 0),
        ([4.0, 3, 6, 5], 14),
        ([4.1, 3, 6.1, 5], 0),
        ([4.0, 3.1, 6, 5.1], 0),
    ],
    ids=str,
)
def test_a_point_one_feature_outside_still_reads_the_border(align, box, value):
    "One cell with one point; the map is 4 x 5, with 3 at its first corner and 14 at its last."
    features = torch.linspace(3, 14, 20).view(1, 1, 4, 5)
    assert align(features, torch.tensor([[0.0, *box]]), 1, 1.0, 1).item() == value


@both
@pytest.mark.parametrize('samples', [0, 2])
def test_no_rois(align, samples):
    assert align(torch.zeros(2, 3, 5, 5), torch.zeros(0, 5), 7, 1 / 4, samples).shape == (
        0,
        3,
        7,
        7,
    )


@both
@pytest.mark.parametrize('samples', [0, 1, 2])
def test_constant_map(align, samples):
    rois = torch.tensor([[0.0, 3, 5, 33, 21], [0, 10, 10, 10.2, 11], [0, 0, 0, 40, 40]])
    torch.testing.assert_close(
        align(torch.full((1, 2, 10, 10), 3.0), rois, 4, 1 / 4, samples),
        torch.full((3, 2, 4, 4), 3.0),
    )


@both
@pytest.mark.parametrize('samples', [0, 1, 2, 3])
def test_ramp_gives_the_centre_of_each_cell(align, samples):
    "Interpolation is exact on a plane, and the mean of evenly spaced points is their centre."
    y, x = torch.meshgrid(
        torch.arange(20.0, dtype=torch.float64),
        torch.arange(30.0, dtype=torch.float64),
        indexing='ij',
    )
    x1, y1, x2, y2 = 13.7, 8.1, 96.3, 59.9
    result = align(
        (2 * x - 3 * y)[None, None],
        torch.tensor([[0, x1, y1, x2, y2]], dtype=torch.float64),
        5,
        1 / 4,
        samples,
    )
    middle = (torch.arange(5, dtype=torch.float64) + 0.5) / 5
    expected = 2 * (x1 + middle * (x2 - x1)) / 4 - 3 * (y1 + middle[:, None] * (y2 - y1)) / 4
    torch.testing.assert_close(result[0, 0], expected)


@both
@given(seed=seeds)
@quick
def test_shift_by_a_stride_is_shift_of_the_map(align, seed):
    draws = generator(seed)
    features = random_features(draws, (1, 2, 16, 16))
    corner = 8 + torch.rand(5, 2, generator=draws, dtype=torch.float64) * 20
    rois = torch.cat(
        [torch.zeros(5, 1), corner, corner + 1 + torch.rand(5, 2, generator=draws) * 20], 1
    )
    moved = rois + torch.tensor([0, 4, 4, 4, 4])
    torch.testing.assert_close(
        align(features, moved, 3, 1 / 4, 2),
        align(features.roll((-1, -1), (2, 3)), rois, 3, 1 / 4, 2),
    )


@both
def test_points_outside(align):
    "Up to one feature outside the border goes on; beyond that there is nothing."
    features = torch.arange(1.0, 10).view(1, 1, 3, 3)

    def at(y, x):
        roi = torch.tensor([[0, x - 0.5, y - 0.5, x + 0.5, y + 0.5]])  # one cell with one point
        return align(features, roi, 1, 1.0, 1).item()

    assert at(-1.0, 1.0) == at(0.0, 1.0) == 2 and at(-1.01, 1.0) == 0
    assert at(3.0, 1.0) == at(2.0, 1.0) == 8 and at(3.01, 1.0) == 0
    assert at(0.5, 0.5) == 3
    assert not align(features, torch.tensor([[0.0, 20, 0, 24, 2]]), 2, 1.0, 2).any()


# ---- derivatives


@quick
@given(seeds, st.sampled_from([1, 2, 0]))
def test_gradients_agree(seed, samples):
    draws = generator(seed)
    features, rois = (
        random_features(draws, (2, 2, 6, 7)).requires_grad_(),
        random_rois(draws, 3, 2, 48, 56),
    )
    weights = random_features(draws, (3, 2, 2, 2))

    def gradient(f):
        loss = (f(features, rois, 2, 1 / 8, samples) * weights).sum()
        return torch.autograd.grad(loss, features)[0]

    ours, fast = map(gradient, (roi_align_plain, roi_align))
    torch.testing.assert_close(ours, fast, rtol=0, atol=1e-12)


@pytest.mark.parametrize('samples', [2, 0])
def test_first_and_second_derivatives_are_right(samples):
    draws = generator('derivatives')
    features = random_features(draws, (2, 1, 4, 5)).requires_grad_()
    rois = torch.tensor([[0, 2.3, 1.1, 14.7, 12.2], [1, -6.2, 3.3, 9.9, 30.1]], dtype=torch.float64)
    loss = lambda x: roi_align(x, rois, 2, 1 / 4, samples).tanh()
    assert torch.autograd.gradcheck(loss, features)
    assert torch.autograd.gradgradcheck(loss, features)


def test_third_derivatives_are_those_of_the_plain_version():
    draws = generator('third')
    features = random_features(draws, (1, 2, 5, 6)).requires_grad_()
    rois = random_rois(draws, 3, 1, 40, 48)

    def third(align):
        slope = align(features, rois, 2, 1 / 8, 2).tanh().sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(slope.square().sum(), features, create_graph=True)
        return slope

    torch.testing.assert_close(third(roi_align), third(roi_align_plain))


def test_torchvisions_function_refuses_a_second_derivative():
    "Should it learn that one day, ours is no longer needed."
    features = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = (ops.roi_align(features, torch.tensor([[0.0, 1, 1, 9, 9]]), 2, 1 / 4, 2) ** 2).sum()
    (first,) = torch.autograd.grad(loss, features, create_graph=True)
    with pytest.raises(RuntimeError, match='double backwards on roi_align not supported'):
        first.sum().backward()


# ---- levels


@quick
@given(seeds, st.sampled_from([224, 112, 100]), st.integers(1, 5))
def test_levels_are_torchvisions(seed, canonical, levels):
    draws = generator(seed)
    boxes = torch.rand(50, 2, generator=draws) * 100
    boxes = torch.cat([boxes, boxes + 2 ** (torch.rand(50, 2, generator=draws) * 12)], 1)
    assert torch.equal(
        assign_levels(boxes, levels, canonical), LevelMapper(2, levels + 1, canonical)([boxes])
    )


def test_levels_grow_with_the_side():
    for canonical in (112.0, 224.0):
        sides = canonical * torch.tensor([0.01, 0.49, 0.5, 0.99, 1, 1.99, 2, 100])
        boxes = torch.cat([torch.zeros(8, 2), sides[:, None].expand(8, 2)], 1)
        assert assign_levels(boxes, 4, canonical).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_rounding_does_not_lower_a_level():
    "A box of 224 pixels is one, wherever it lies, though its float32 side may be 223.99999."
    start = torch.rand(200, 1, generator=generator('start')) * 500
    for side, level in ((112, 1), (224, 2), (448, 3)):
        boxes = torch.cat([start, start, start + side, start + side], 1)
        assert ((boxes[:, 2] - boxes[:, 0]) < side).any()
        assert (assign_levels(boxes, 4) == level).all()
        assert torch.equal(assign_levels(boxes, 4), LevelMapper(2, 5)([boxes]))


def test_levels_of_nothing():
    assert assign_levels(torch.zeros(0, 4), 4).shape == (0,)
    assert assign_levels(torch.tensor([[5.0, 5, 5, 9]]), 4).tolist() == [0]  # a box without area


# ---- pooling


@given(
    seed=seeds, counts=st.lists(st.integers(0, 8), min_size=1, max_size=3), size=st.integers(1, 7)
)
@quick
def test_pooling_is_torchvisions(seed, counts, size):
    draws, image = generator(seed), (256, 320)
    levels = [
        random_features(draws, (len(counts), 2, image[0] // s, image[1] // s))
        for s in (4, 8, 16, 32)
    ]
    rois = random_rois(draws, sum(counts), 1, *image)[:, 1:]
    boxes = list((rois * 4).split(counts))  # up to 512 pixels
    expected = ops.MultiScaleRoIAlign(['0', '1', '2', '3'], size, 2)(
        dict(zip('0123', levels)), boxes, [image] * len(counts)
    )
    result = pool_rois(levels, boxes, image, size)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    assert result.shape == (sum(counts), 2, size, size)


def test_pooling_without_boxes():
    levels = [torch.randn(2, 3, 64 // s, 64 // s, requires_grad=True) for s in (1, 2, 4, 8)]
    none, some = torch.zeros(0, 4), torch.tensor([[3.0, 4, 100, 120]])
    assert pool_rois(levels, [none, none], (256, 256), 7).shape == (0, 3, 7, 7)
    one = pool_rois(levels, [none, some], (256, 256), 7)
    assert one.shape == (1, 3, 7, 7)
    torch.testing.assert_close(
        one, pool_rois([x[1:] for x in levels], [some], (256, 256), 7)
    )


def test_only_the_level_of_the_box_gets_a_gradient():
    levels = [torch.randn(1, 3, 64 // s, 64 // s, requires_grad=True) for s in (1, 2, 4, 8)]
    pool_rois(
        levels, [torch.tensor([[0.0, 0, 120, 120]])], (256, 256), 7
    ).sum().backward()
    assert [x.grad is not None and bool(x.grad.any()) for x in levels] == [
        False,
        True,
        False,
        False,
    ]


@quick
@given(seeds)
def test_order_of_boxes_is_kept(seed):
    draws = generator(seed)
    levels = [random_features(draws, (1, 2, 256 // s, 256 // s)) for s in (4, 8, 16, 32)]
    boxes, order = (
        random_rois(draws, 12, 1, 256, 256)[:, 1:] * 4,
        torch.randperm(12, generator=draws),
    )
    result = pool_rois(levels, [boxes], (256, 256), 3)
    torch.testing.assert_close(pool_rois(levels, [boxes[order]], (256, 256), 3), result[order])
