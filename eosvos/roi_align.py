"""RoIAlign"""
from collections.abc import Callable
import torch
from torch import Tensor
from torchvision import ops
from eosvos.boxes import box_area


def assign_levels(
    boxes: Tensor,  # (N, 4) xyxy, pixels
    levels: int,  # how many feature maps there are
    canonical: float = 224.0,  # a box of this side, pixels, goes to the third of them
) -> Tensor:  # (N,) int64 in 0 ... levels - 1
    "Which level of the pyramid a box is cut from: twice the side, one level up (FPN, equation 1)."
    side = torch.sqrt(box_area(boxes))
    return torch.floor(2 + torch.log2(side / canonical) + 1e-6).clamp(0, levels - 1).to(torch.int64)


def roi_align_fast(
    features: Tensor,  # (B, C, H, W)
    rois: Tensor,  # (N, 5): index of the image, then xyxy, pixels of the image
    size: int,  # S: cells per side of the result
    scale: float,  # features per pixel, 1 / stride
    samples: int,  # sample points per side of a cell; 0: as many as there are features
) -> Tensor:  # (N, C, S, S)
    "RoIAlign by torchvision's compiled kernel: fast, differentiable once."
    return ops.roi_align(features, rois, size, scale, samples or -1)


def pool_rois(
    features: list[Tensor],  # P2 ... P5, each (B, C, h, w)
    boxes: list[Tensor],  # B times (N, 4) xyxy, pixels of the image
    image: tuple[int, int],  # H, W of the padded batch, pixels
    size: int,  # S: cells per side of the result
    canonical: float = 224.0,  # as in `assign_levels`
    samples: int = 2,  # sample points per side of a cell
    align: Callable[..., Tensor] = roi_align_fast,  # which RoIAlign
) -> Tensor:  # (sum of N, C, S, S)
    "The features of each box, cut from the level that fits its size."
    index = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(b) for b in boxes])).to(boxes[0])
    rois = torch.cat([index[:, None], torch.cat(boxes)], dim=1)  # (N, 5)
    level = assign_levels(rois[:, 1:], len(features), canonical)
    pooled = features[0].new_zeros(len(rois), features[0].shape[1], size, size)
    for i, x in enumerate(features):
        chosen = (level == i).nonzero()[:, 0]
        if len(chosen):
            pooled = pooled.index_copy(0, chosen, align(x, rois[chosen], size, x.shape[-2] / image[0], samples))
    return pooled
