"""Properties of the box geometry, on boxes that hypothesis looks for."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder

from eosvos.boxes import box_area, box_iou, decode, encode

quick = settings(max_examples=30, deadline=None, derandomize=True)
places = st.floats(-50, 1000, width=32)
sides = st.floats(1, 500, width=32)


def as_boxes(rows):
    corners = [[x, y, x + w, y + h] for x, y, w, h in rows]
    return torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)


def lists(min_size=0, max_size=12):
    "Float64 boxes (N, 4) with sides from 1 to 500 pixels."
    rows = st.tuples(places, places, sides, sides)
    return st.lists(rows, min_size=min_size, max_size=max_size).map(as_boxes)


@quick
@given(lists(), lists())
def test_iou_is_symmetric_and_bounded_and_torchvisions(a, b):
    iou = box_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1)).all()
    assert torch.equal(iou, box_iou(b, a).T)
    assert_close(iou, ops.box_iou(a, b))
    assert_close(box_area(a), ops.box_area(a))
    assert_close(box_iou(a, a).diagonal(), torch.ones(len(a), dtype=torch.float64))


@quick
@given(lists(), lists(), st.floats(0.01, 100), st.tuples(places, places))
def test_iou_ignores_scale_and_place(a, b, scale, move):
    move = torch.tensor(move * 2, dtype=torch.float64)
    assert_close(box_iou(scale * a + move, scale * b + move), box_iou(a, b), rtol=0, atol=1e-6)


@quick
@given(lists(1, 1), st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)))
def test_iou_of_a_box_and_its_part_is_the_ratio_of_areas(box, cuts):
    x1, x2, y1, y2 = *sorted(cuts[:2]), *sorted(cuts[2:])
    side = (box[:, 2:] - box[:, :2]).repeat(1, 2)  # (1, 4)
    part = box[:, [0, 1, 0, 1]] + side * torch.tensor([x1, y1, x2, y2], dtype=torch.float64)
    assert_close(box_iou(part, box)[0], box_area(part) / box_area(box), rtol=0, atol=1e-9)


@quick
@given(
    st.lists(st.tuples(places, places, sides, sides, places, places, sides, sides), max_size=12),
    st.sampled_from([(1.0, 1.0), (10.0, 5.0)]),
)
def test_encode_and_decode_are_inverse_up_to_the_clamp(rows, weights):
    boxes, anchors = as_boxes([r[:4] for r in rows]), as_boxes([r[4:] for r in rows])
    deltas = encode(boxes, anchors, weights)
    coder = BoxCoder((weights[0], weights[0], weights[1], weights[1]))
    assert_close(deltas, coder.encode_single(boxes, anchors))
    assert_close(decode(deltas, anchors, weights), coder.decode_single(deltas, anchors))
    size = lambda b: b[:, 2:] - b[:, :2]
    fits = (size(boxes) / size(anchors) <= 62).all(1)
    assert_close(decode(deltas, anchors, weights)[fits], boxes[fits], rtol=0, atol=1e-6)


@quick
@given(lists(1), st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4))
def test_decode_is_finite_and_ordered_for_wild_sizes(anchors, deltas):
    deltas = torch.tensor(deltas, dtype=torch.float64).expand(len(anchors), 4) * torch.tensor(
        [1e-6, 1e-6, 1, 1], dtype=torch.float64
    )
    boxes = decode(deltas, anchors)
    assert boxes.isfinite().all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert (boxes[:, 2:] - boxes[:, :2] <= 62.5 * (anchors[:, 2:] - anchors[:, :2]) + 1e-6).all()
