"The whole model against torchvision's: the same random weights, images and samples."

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from eosvos.core import demo_frame, generator, masks_to_boxes
from eosvos.mask_rcnn import (
    PAPER,
    ImageConfig,
    MaskRCNN,
    ModelConfig,
    RoIConfig,
    resized,
)
from eosvos.resnet import FrozenBatchNorm2d as OurFrozen
from eosvos.resnet import ResNet50
from eosvos.rpn import RPNConfig

SMALL = ImageConfig(min_side=128, max_side=224)
BETA = 1 / 9  # of today's torchvision
SCALES = {
    'cls_score.weight': 5,
    'box_predictor.bbox_pred.weight': 1,
    'cls_logits.weight': 1,
    'rpn.head.bbox_pred.weight': 0.1,
}


def freeze(module: nn.Module, draws: torch.Generator) -> None:
    "Frozen BatchNorm, with random statistics, in place of BatchNorm."
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features)
            frozen.running_mean.normal_(0, 0.1, generator=draws)
            frozen.running_var.uniform_(0.5, 2, generator=draws)[::4] = 1e-4  # where eps is seen
            frozen.weight.uniform_(0.3, 0.6, generator=draws)[::4] *= 1e-2
            frozen.bias.normal_(0, 0.1, generator=draws)
            setattr(module, name, frozen)
        else:
            freeze(child, draws)


def pair(image: ImageConfig, mask_size: int = 14, eps: float = 1e-5) -> tuple[nn.Module, nn.Module]:
    "Torchvision's model and ours with its weights."
    torch.manual_seed(0)
    draws = generator(0, 'parity')
    peer = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=2,
        min_size=image.min_side,
        max_size=image.max_side,
        box_score_thresh=0.05,
        box_detections_per_img=20,
        box_batch_size_per_image=64,  # of 512, to be quick
        mask_roi_pool=MultiScaleRoIAlign(['0', '1', '2', '3'], mask_size, 2),
    )
    freeze(peer.backbone, draws)
    overwrite_eps(peer, eps)
    for name, value in peer.named_parameters():  # scores well apart
        for part, std in SCALES.items():
            if part in name:
                value.data.normal_(0, std, generator=draws)
    peer.roi_heads.box_predictor.cls_score.bias.data[1] = 7  # where scores are neither 0 nor 1
    kinds = dict(beta=BETA, mask_loss='bce')
    roi = RoIConfig(mask_size=mask_size, samples=64, score=0.05, detections=20, **kinds)
    config = ModelConfig(image=image, rpn=RPNConfig(beta=BETA), roi=roi)
    ours = MaskRCNN(ResNet50(partial(OurFrozen, eps=eps)), config)
    ours.load_state_dict(peer.state_dict())  # every name and every shape
    return peer.eval(), ours


def assign_in_double(rpn: nn.Module) -> Callable:
    "Torchvision's anchor labels in float64: it makes them, and the cross-entropy, float32."
    assign = rpn.assign_targets_to_anchors

    def wrapped(anchors, targets):
        labels, boxes = assign(anchors, targets)
        return [label.double() for label in labels], boxes

    return wrapped


@contextmanager
def caught(model: nn.Module) -> Iterator[dict]:
    "What backbone and RPN return while the model runs."
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.update({name: output})

    hooks = [getattr(model, name).register_forward_hook(keep(name)) for name in ('backbone', 'rpn')]
    yield seen
    for hook in hooks:
        hook.remove()


def near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    "No element differs by more than `tolerance`."
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@torch.no_grad()
def compare(
    peer: nn.Module, ours: nn.Module, images: list[torch.Tensor], padded: tuple[int, int]
) -> None:
    "Features, proposals, boxes and masks of both models, each to 1e-4."
    with caught(peer) as a:
        theirs = peer(images)
    with caught(ours) as b:
        found = ours(images)
    for x, y in zip(b['backbone'], a['backbone'].values(), strict=True):
        assert 0.01 < y.std() < 10  # neither dead nor exploded
        near(x, y, 1e-4)
    for x, y in zip(b['rpn'][0], a['rpn'][0], strict=True):
        assert len(y) > 100
        near(x, y, 1e-4 * max(padded))
    for image, x, y in zip(images, found, theirs, strict=True):
        size = image.shape[-2:]
        scores = y['scores']
        assert len(scores.unique()) == len(scores) >= 10 and scores[0] > scores[-1] + 0.05
        near(x['scores'], y['scores'], 1e-4)
        near(x['boxes'], y['boxes'], 1e-4 * max(size))
        near(x['masks'], y['masks'][:, 0], 1e-4)
        assert (
            torch.equal(x['labels'], y['labels'])
            and x['masks'].shape[1:] == size
            and y['masks'].max() > 0.5 > y['masks'].mean()
        )


@pytest.mark.parametrize('eps', [0.0, 1e-5])
def test_eval(eps):
    "Two images of different sizes, that are resized and padded."
    peer, ours = pair(SMALL, eps=eps)
    image = demo_frame()[0]
    images = [F.interpolate(image[None], (120, 200))[0], image[:, :, 40:600]]
    compare(peer, ours, images, (128, 224))


def test_eps_matters():
    "Without this the two cases above would be one."
    (_, a), (_, b) = pair(SMALL, eps=0.0), pair(SMALL, eps=1e-5)
    x = demo_frame()[0][None, :, :128, :128]
    with torch.no_grad():
        assert (a.backbone(x)[0] - b.backbone(x)[0]).abs().max() > 1e-2


def test_eval_full_size():
    "The size of the paper: 480 x 854 becomes 749 x 1333, padded to 768 x 1344; mask RoIs of 28."
    peer, ours = pair(PAPER.image, mask_size=28)
    image = F.interpolate(demo_frame()[0][None], (480, 854), mode='bilinear')[0]
    sizes = []
    hook = ours.backbone.register_forward_pre_hook(
        lambda module, inputs: sizes.append(tuple(inputs[0].shape))
    )
    compare(peer, ours, [image], (768, 1344))
    hook.remove()
    assert resized((480, 854), PAPER.image) == (749, 1333) and sizes == [(1, 3, 768, 1344)]


def scene() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    "Three float64 images of 1, 2 and 0 objects that need no resizing (a float32 ratio)."
    draws, images, targets = generator(0, 'scene'), [], []
    for (H, W), boxes in (
        ((128, 192), [[20, 30, 90, 110]]),
        ((128, 160), [[10, 8, 60, 50], [70, 40, 150, 120]]),
        ((128, 128), []),
    ):
        masks = torch.zeros(len(boxes), H, W, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[y1:y2, x1:x2] = torch.rand(y2 - y1, x2 - x1, generator=draws) > 0.3
        images.append(torch.rand(3, H, W, generator=draws, dtype=torch.float64))
        targets.append(
            dict(
                boxes=masks_to_boxes(masks).double(),
                labels=torch.ones(len(boxes), dtype=torch.int64),
                masks=masks,
            )
        )
    return images, targets


def shuffled(n: int, **_) -> torch.Tensor:
    "A stand-in for `torch.randperm` that depends on n alone."
    return torch.rand(n, generator=generator(0, 'shuffled', n)).argsort()


def test_train():
    "The same samples: five losses to 1e-9, each gradient to 1e-8 of its norm."
    peer, ours = (model.double() for model in pair(SMALL))
    images, targets = scene()
    assign = mock.patch.object(peer.rpn, 'assign_targets_to_anchors', assign_in_double(peer.rpn))
    with mock.patch('torch.randperm', shuffled), assign:
        theirs, losses = peer.train()(images, targets), ours(images, targets)
    assert losses.keys() == theirs.keys() and len(losses) == 5
    for name, value in theirs.items():
        assert value > 0
        torch.testing.assert_close(
            losses[name], value, rtol=1e-9, atol=0, msg=lambda text, name=name: f'{name}: {text}'
        )
    names = [name for name, _ in peer.named_parameters()]
    mine = dict(ours.named_parameters())
    assert set(names) == set(mine)
    a = torch.autograd.grad(sum(theirs.values()), list(peer.parameters()))
    b = torch.autograd.grad(sum(losses.values()), [mine[name] for name in names])
    for name, x, y in zip(names, a, b, strict=True):
        assert x.norm() > 0 and (x - y).norm() <= 1e-8 * x.norm(), name


def test_samples_matter():
    "Other samples give other losses, so that the agreement above means something."
    _, ours = pair(SMALL)
    images, targets = scene()
    images = [image.float() for image in images]
    with torch.no_grad():
        one, same, other = (ours(images, targets, generator=generator(k)) for k in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(one[name] != other[name] for name in one)


def test_sizes():
    "The size that an image is resized to, for many sizes."
    for config in (PAPER.image, SMALL):
        for h in range(37, 1400, 97):
            for w in range(41, 1400, 101):
                scale = min(config.min_side / min(h, w), config.max_side / max(h, w))
                empty = torch.empty(1, 1, h, w, device='meta')
                theirs = F.interpolate(
                    empty,
                    scale_factor=scale,
                    mode='bilinear',
                    recompute_scale_factor=True,
                    align_corners=False,
                )
                assert resized((h, w), config) == tuple(theirs.shape[-2:])


def test_golden_numbers():
    "The two-class GroupNorm model of the paper, counted in the authors' own program."
    with torch.device('meta'):
        model = MaskRCNN(ResNet50())
    parameters = list(model.parameters())
    assert len(parameters) == 201 and not list(model.buffers())
    assert sum(p.numel() for p in parameters) == 43_975_515
    assert sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == 53
    assert sum(len(p) for p in parameters) == 90_998
    peer = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2
    ).named_parameters()
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in peer
    }
