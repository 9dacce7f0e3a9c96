"""Fine-tuning on one frame"""
from collections.abc import Iterable
from dataclasses import dataclass
import torch
from torch import Tensor, nn
from torch.func import functional_call
from eosvos.augment import AugmentConfig, augment
from eosvos.core import generator, masks_to_boxes

Weights = dict[str, Tensor]  # the parameters of a model by name
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]  # images and their targets


@dataclass(frozen=True)
class FineTuneConfig:
    "How the model learns one object from one frame; the defaults are the paper's e-OSVOS-10."
    iterations: int = 10  # inner steps, T
    batch: int = 3  # augmented copies of the frame per step (released code; the paper does not say)
    lr: float = 1e-3  # of every weight
    clip: float | None = None  # greatest norm of the gradient
    view: AugmentConfig = AugmentConfig()  # flip, rotation and zoom of the copies


def initial_weights(
    model: nn.Module,
) -> Weights:
    "A copy of the model's parameters, to be changed without touching the model."
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def as_target(
    mask: Tensor,  # (H, W) bool
) -> dict[str, Tensor]:  # boxes (1, 4), labels (1,), masks (1, H, W); all empty for an empty mask
    "The target that says: this one object, nothing else."
    masks = mask[None] if mask.any() else mask.new_zeros(0, *mask.shape)
    boxes = masks_to_boxes(masks)
    return dict(boxes=boxes, labels=torch.ones(len(boxes), dtype=torch.int64, device=mask.device), masks=masks.to(torch.uint8))


def views(
    image: Tensor,  # (3, H, W) in [0, 1]
    mask: Tensor,  # (H, W) bool
    config: FineTuneConfig,
    key: tuple[int | str, ...],  # seed of every draw
) -> Iterable[Batch]:  # one batch per inner step
    "Augmented copies of one frame."
    for t in range(config.iterations):
        copies = [augment(image, mask[None], config.view, generator(*key, 'view', t, i)) for i in range(config.batch)]
        yield [x for x, _ in copies], [as_target(m[0]) for _, m in copies]


def inner_step(
    model: nn.Module,
    weights: Weights,  # changed in place
    batch: Batch,
    lr: float,
    clip: float | None = None,  # greatest norm of the gradient
    random: torch.Generator | None = None,  # of the sampling of anchors and proposals
) -> dict[str, float]:  # the losses before the step
    "One step of plain SGD: weights -= lr * gradient (paper, equation 5). RuntimeError where a loss is not finite."
    for w in weights.values():
        w.requires_grad_()
    losses = functional_call(model, weights, batch, dict(generator=random))
    values = {name: v.item() for name, v in losses.items()}
    total = sum(losses.values())
    if not total.isfinite():
        raise RuntimeError(f'inner step: losses are not finite: {values}')
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
    for w in weights.values():
        w.requires_grad_(False)
    scale = 1.0 if clip is None else min(1.0, clip / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item())
    torch._foreach_add_(list(weights.values()), gradients, alpha=-lr * scale)
    return values


def fine_tune(
    model: nn.Module,
    weights: Weights,  # where to start; stays as it is
    batches: Iterable[Batch],  # one per inner step
    config: FineTuneConfig,
    key: tuple[int | str, ...],  # seed of every draw
) -> tuple[Weights, list[dict[str, float]]]:  # new weights, losses of each step
    "The weights after a few inner steps."
    weights, log = {name: w.clone() for name, w in weights.items()}, []
    for t, batch in enumerate(batches):
        log.append(inner_step(model, weights, batch, config.lr, config.clip, generator(*key, 'sample', t)))
    return weights, log
