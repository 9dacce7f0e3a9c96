"""Mask R-CNN"""
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from eosvos.box_head import BOX_WEIGHTS, BoxHead, BoxPredictor, box_loss, detect
from eosvos.boxes import box_iou, encode
from eosvos.mask_head import MaskHead, MaskPredictor, mask_loss, paste_masks, project_masks
from eosvos.roi_align import pool_rois
from eosvos.rpn import RPN, match, sample

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class RoIConfig:
    "Numbers of the box and the mask head; the defaults are the paper's (torchvision 0.4 and section 4.2)."
    iou: float = 0.5  # a proposal with at least this IoU is an object
    samples: int = 512  # proposals per image in the loss
    positives: float = 0.25  # share of objects among them, at most
    canonical: float = 224.0  # side of a box that belongs to the third level, pixels
    box_size: int = 7  # cells per side of the pooled box
    box_width: int = 1024  # of the fully connected layers
    mask_size: int = 28  # cells per side of the pooled mask; the logits have twice as many
    mask_width: int = 256  # channels of the mask head
    mask_layers: int = 4  # of the mask head
    score: float = 0.5  # detections below are dropped
    nms_iou: float = 0.5  # of two detections that overlap by more, the better stays
    detections: int = 1  # kept per image: one model follows one object
    beta: float = 1.0  # box loss: 1 is torchvision 0.4 and the paper, 1/9 is torchvision today
    mask_loss: str = 'lovasz'  # or 'bce'


@dataclass(frozen=True)
class ImageConfig:
    "What happens to an image before the backbone sees it; the defaults are torchvision's."
    min_side: int = 800  # the shorter side is resized to this ...
    max_side: int = 1333  # ... unless the longer one would exceed this, pixels
    multiple: int = 32  # sides are padded to a multiple of this
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of R, G, B in [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def check_targets(
    images: list[Tensor],  # B times (3, H, W)
    targets: list[dict[str, Tensor]],  # B dicts: boxes (G, 4), labels (G,), masks (G, H, W)
) -> None:
    "Raises `ValueError`, naming both values, where a target does not fit its image."
    if len(images) != len(targets):
        raise ValueError(f'expected a target for each of {len(images)} images, got {len(targets)}')
    for i, (image, t) in enumerate(zip(images, targets, strict=True)):
        g, hw = len(t['boxes']), tuple(image.shape[-2:])
        for key, want in dict(boxes=(g, 4), labels=(g,), masks=(g, *hw)).items():
            if tuple(t[key].shape) != want:
                raise ValueError(f'target {i}: expected {key} of shape {want}, got {tuple(t[key].shape)}')
        bad = (t['boxes'][:, 2:] <= t['boxes'][:, :2]).any(dim=1)
        if bad.any():
            raise ValueError(f'target {i}: expected boxes with x1 < x2 and y1 < y2, got {t["boxes"][bad][0].tolist()}')


def resized(
    size: Size,  # of the image
    config: ImageConfig,
) -> Size:  # of the image that the backbone sees, without padding
    "The size at which an image is worked on: as large as both limits allow."
    scale = min(config.min_side / min(size), config.max_side / max(size))
    return tuple(int(side * scale) for side in size)


def preprocess(
    images: list[Tensor],  # B times (3, H, W) in [0, 1], of any sizes
    config: ImageConfig,
) -> tuple[Tensor, list[Size]]:  # (B, 3, H', W'); sizes without padding
    "Normalised, resized and padded images in one batch."
    mean, std = (images[0].new_tensor(o)[:, None, None] for o in (config.mean, config.std))
    sizes = [resized(tuple(x.shape[-2:]), config) for x in images]
    height, width = (-(-max(s[i] for s in sizes) // config.multiple) * config.multiple for i in range(2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for x, (h, w), canvas in zip(images, sizes, batch, strict=True):
        x = (x - mean) / std
        if x.shape[-2:] != (h, w):
            scale = min(config.min_side / min(x.shape[-2:]), config.max_side / max(x.shape[-2:]))
            x = F.interpolate(x[None], scale_factor=scale, mode='bilinear', recompute_scale_factor=True, align_corners=False)[0]
        canvas[:, :h, :w] = x
    return batch, sizes


def scale_boxes(
    boxes: Tensor,  # (N, 4) xyxy, pixels of an image of size `old`
    old: Size,
    new: Size,
) -> Tensor:  # (N, 4) xyxy, pixels of the same image at size `new`
    "Boxes that follow an image when it is resized."
    y, x = new[0] / old[0], new[1] / old[1]
    return boxes * boxes.new_tensor([x, y, x, y])


def scale_targets(
    targets: list[dict[str, Tensor]],  # B dicts, see `check_targets`
    olds: list[Size],
    news: list[Size],
) -> list[dict[str, Tensor]]:  # the same, in pixels of the resized images
    "Targets that follow their images."
    def scale(t, old, new):
        masks = t['masks'] if old == new else F.interpolate(t['masks'][:, None].float(), new, mode='nearest')[:, 0].to(t['masks'].dtype)
        return dict(boxes=scale_boxes(t['boxes'], old, new), labels=t['labels'], masks=masks)
    return [scale(*o) for o in zip(targets, olds, news, strict=True)]


class RoIHeads(nn.Module):
    "From proposals to detections with masks."

    def __init__(
        self,
        channels: int,  # of the pyramid
        classes: int = 2,  # background included
        config: RoIConfig = RoIConfig(),
    ):
        super().__init__()
        c = self.config = config
        self.box_head = BoxHead(channels * c.box_size**2, c.box_width)
        self.box_predictor = BoxPredictor(c.box_width, classes)
        self.mask_head = MaskHead(channels, c.mask_width, c.mask_layers)
        self.mask_predictor = MaskPredictor(c.mask_width, classes)

    def pool(self, features, boxes, image, size):
        return pool_rois(features[:4], boxes, image, size, self.config.canonical)

    def boxes(self, features, boxes, image):
        return self.box_predictor(self.box_head(self.pool(features, boxes, image, self.config.box_size)))

    def masks(self, features, boxes, image):
        return self.mask_predictor(self.mask_head(self.pool(features, boxes, image, self.config.mask_size)))

    @torch.no_grad()
    def choose(
        self,
        proposals: Tensor,  # (P, 4) xyxy of one image
        target: dict[str, Tensor],
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # (S, 4) boxes, (S,) labels, (S,) index of the object
        "The proposals that the losses are computed on, true boxes among them."
        c = self.config
        proposals = torch.cat([proposals, target['boxes'].to(proposals)])
        found = match(box_iou(target['boxes'].to(proposals), proposals), c.iou, c.iou, keep_best=False)
        owner = found.clamp(min=0)
        labels = torch.where(found >= 0, target['labels'][owner], 0) if len(target['labels']) else torch.zeros_like(found)
        chosen = sample(labels, c.samples, c.positives, generator)
        return proposals[chosen], labels[chosen], owner[chosen]

    def losses(self, features, proposals, image, targets, generator):
        "The three losses of the heads: class, box and mask."
        boxes, labels, owners = zip(*[self.choose(p, t, generator) for p, t in zip(proposals, targets, strict=True)], strict=True)
        wanted = [encode(t['boxes'].to(b)[o], b, BOX_WEIGHTS) if len(t['boxes']) else torch.zeros_like(b) for b, o, t in zip(boxes, owners, targets, strict=True)]
        logits, deltas = self.boxes(features, list(boxes), image)
        result = box_loss(logits, deltas, torch.cat(labels), torch.cat(wanted), self.config.beta)
        positive = [label > 0 for label in labels]
        boxes = [b[p] for b, p in zip(boxes, positive, strict=True)]
        logits, kinds = self.masks(features, boxes, image), torch.cat([label[p] for label, p in zip(labels, positive, strict=True)])
        wanted = [project_masks(t['masks'], b, o[p], logits.shape[-1]) for t, b, o, p in zip(targets, boxes, owners, positive, strict=True)]
        return result | dict(loss_mask=mask_loss(logits[torch.arange(len(kinds)), kinds], torch.cat(wanted), self.config.mask_loss))

    def detections(self, features, proposals, image, sizes):
        "The detections of each image, best first, each with the mask inside its box."
        c, counts = self.config, [len(p) for p in proposals]
        parts = zip(*[o.split(counts) for o in self.boxes(features, proposals, image)], proposals, sizes, strict=True)
        found = [detect(*part, c.score, c.nms_iou, c.detections) for part in parts]
        masks = self.masks(features, [d['boxes'] for d in found], image).sigmoid()
        for d, m in zip(found, masks.split([len(d['boxes']) for d in found]), strict=True):
            d['masks'] = m[torch.arange(len(m)), d['labels']]  # (D, M, M)
        return found


class MaskRCNN(nn.Module):
    "Finds objects: a box, a score and a mask each."

    def __init__(
        self,
        backbone: nn.Module,  # images to P2 ... P6
        rpn: RPN,
        roi_heads: RoIHeads,
        config: ImageConfig = ImageConfig(),
    ):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads, self.config = backbone, rpn, roi_heads, config

    def forward(
        self,
        images: list[Tensor],  # B times (3, H, W), RGB in [0, 1]
        targets: list[dict[str, Tensor]] | None = None,  # asks for the losses, see `check_targets`
        given: list[Tensor] | None = None,  # B times (M, 4) xyxy, pixels: boxes to look at beside the proposals
        generator: torch.Generator | None = None,  # of the sampling in the losses
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:  # five losses, or per image boxes (D, 4), labels, scores (D,), masks (D, H, W)
        originals = [tuple(x.shape[-2:]) for x in images]
        batch, sizes = preprocess(images, self.config)
        image = tuple(batch.shape[-2:])
        if targets is not None:
            check_targets(images, targets)
            targets = scale_targets(targets, originals, sizes)
        if given is not None:
            given = [scale_boxes(g, o, s) for g, o, s in zip(given, originals, sizes, strict=True)]
        features = self.backbone(batch)
        proposals, losses = self.rpn(features, sizes, image, targets, given, generator)
        if targets is not None:
            return losses | self.roi_heads.losses(features, proposals, image, targets, generator)
        found = self.roi_heads.detections(features, proposals, image, sizes)
        for d, old, new in zip(found, originals, sizes, strict=True):
            d['boxes'] = scale_boxes(d['boxes'], new, old)
            d['masks'] = paste_masks(d['masks'], d['boxes'], old)
        return found
