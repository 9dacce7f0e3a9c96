"""Boxes"""
import math
import torch
from torch import Tensor
from torchvision import ops

MAX_LOG_SCALE = math.log(1000 / 16)  # a decoded box is at most 62.5 times its anchor, so that exp() cannot overflow


def box_area(
    boxes: Tensor,  # (..., 4) xyxy, pixels, x2 and y2 exclusive
) -> Tensor:  # (...) square pixels
    "Width times height of each box."
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(
    a: Tensor,  # (N, 4) xyxy, pixels
    b: Tensor,  # (M, 4) xyxy, pixels
) -> Tensor:  # (N, M) in [0, 1]
    "Intersection over union of every box of `a` with every box of `b`."
    top_left = torch.maximum(a[:, None, :2], b[:, :2])  # (N, M, 2)
    bottom_right = torch.minimum(a[:, None, 2:], b[:, 2:])  # (N, M, 2)
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)  # (N, M)
    return intersection / (box_area(a)[:, None] + box_area(b) - intersection)


def centre_size(
    boxes: Tensor,  # (..., 4) xyxy
) -> tuple[Tensor, Tensor]:  # (..., 2) centres x, y and (..., 2) sizes w, h
    "Centres and sizes of boxes."
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def encode(
    boxes: Tensor,  # (N, 4) xyxy: where the object is
    anchors: Tensor,  # (N, 4) xyxy: where we look from
    weights: tuple[float, float] = (1.0, 1.0),  # scale of the offsets, scale of the log sizes
) -> Tensor:  # (N, 4) dx, dy, dw, dh
    "The regression targets that lead from `anchors` to `boxes` (R-CNN, appendix C)."
    (c, s), (ca, sa) = centre_size(boxes), centre_size(anchors)
    return torch.cat([weights[0] * (c - ca) / sa, weights[1] * torch.log(s / sa)], dim=-1)


def decode(
    deltas: Tensor,  # (..., 4) dx, dy, dw, dh
    anchors: Tensor,  # (..., 4) xyxy, broadcast against `deltas`
    weights: tuple[float, float] = (1.0, 1.0),  # as in `encode`
) -> Tensor:  # (..., 4) xyxy
    "Boxes that lie `deltas` away from `anchors`: the inverse of `encode`."
    ca, sa = centre_size(anchors)
    centre = ca + deltas[..., :2] / weights[0] * sa
    half = 0.5 * sa * torch.exp((deltas[..., 2:] / weights[1]).clamp(max=MAX_LOG_SCALE))
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(
    boxes: Tensor,  # (..., 4) xyxy, pixels
    size: tuple[int, int],  # height, width of the image, pixels
) -> Tensor:  # (..., 4)
    "Boxes cut off at the border of the image."
    h, w = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([w, h, w, h]))


def large_enough(
    boxes: Tensor,  # (N, 4) xyxy
    side: float,  # least width and height, pixels
) -> Tensor:  # (K,) indices
    "Indices of the boxes whose width and height are at least `side`."
    return ((boxes[:, 2:] - boxes[:, :2]) >= side).all(dim=1).nonzero()[:, 0]


def nms(
    boxes: Tensor,  # (N, 4) xyxy
    scores: Tensor,  # (N,)
    iou: float,  # boxes that overlap a better one by more than this are dropped
    groups: Tensor | None = None,  # (N,) int64: boxes of different groups never suppress one another
) -> Tensor:  # (K,) indices of the kept boxes, best first
    "Non-maximum suppression, per group where groups are given (torchvision's compiled loop)."
    return ops.nms(boxes, scores, iou) if groups is None else ops.batched_nms(boxes, scores, groups, iou)
