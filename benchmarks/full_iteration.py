"""One fine-tuning iteration of the full-size GroupNorm model against torchvision's Mask R-CNN.

On the CPU, in one process. Both do equal work: the same weights, image, target and losses, and one
SGD step on all parameters. Untrained weights propose next to nothing that overlaps the object, so
both compute their proposals, and both then go on with the same boxes: jittered copies of the true
box, and others far from it. The samplers of both draw the same RoIs. Losses and numbers of RoIs are
compared in every iteration. Run as `.venv/bin/python benchmarks/full_iteration.py`; the line
`ratio full-iteration VALUE` gives ours / peer.
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign

from eosvos.boxes import box_iou
from eosvos.core import generator, masks_to_boxes
from eosvos.fine_tuning import initial_weights, inner_step
from eosvos.small import PAPER, ModelConfig, build

H, W = 480, 854  # of the image, pixels: DAVIS at 480p, which both resize and pad to 768 x 1344
BOXES = 500  # on the object, and as many off it: the paper's 1000 proposals
LR = 1e-4  # small, so that untrained weights do not run away
SEED = 0  # of the sampling in both
BETA = 1 / 9  # of both box losses, as in today's torchvision


@dataclass
class Task:
    "What both models are trained on."

    images: list[Tensor]  # one (3, H, W)
    targets: list[dict[str, Tensor]]  # boxes (1, 4), labels (1,), masks (1, H, W)
    boxes: list[Tensor]  # (2 * BOXES, 4) xyxy, pixels of the image


def make_task() -> Task:
    "A random image, an ellipse as the object, and boxes on it and off it."
    rng = generator('full iteration')
    y, x = torch.arange(H)[:, None], torch.arange(W)
    masks = ((y - 250) / 110) ** 2 + ((x - 400) / 150) ** 2 < 1  # (H, W)
    box = masks_to_boxes(masks[None])  # (1, 4)
    jitter = 0.1 * (torch.rand(BOXES, 4, generator=rng) - 0.5)  # at most 5 % of a side
    near = box + jitter * (box[:, 2:] - box[:, :2]).repeat(1, 2)
    corner = torch.rand(20 * BOXES, 2, generator=rng) * torch.tensor([W - 40, H - 40])
    side = 20 + 200 * torch.rand(20 * BOXES, 2, generator=rng)
    far = torch.cat([corner, torch.minimum(corner + side, torch.tensor([W, H]))], 1)
    far = far[box_iou(far, box)[:, 0] < 0.4][:BOXES]
    target = dict(boxes=box, labels=torch.tensor([1]), masks=masks[None].byte())
    return Task([torch.rand(3, H, W, generator=rng)], [target], [torch.cat([near, far])])


def configuration(
    size: str,  # 'full' or 'small'
) -> ModelConfig:
    "The paper's model, with the losses that torchvision has."
    config = replace(
        PAPER, rpn=replace(PAPER.rpn, beta=BETA), roi=replace(PAPER.roi, beta=BETA, mask_loss='bce')
    )
    if size == 'full':
        return config
    return replace(
        config,
        image=replace(config.image, min_side=96, max_side=168),
        roi=replace(config.roi, samples=64),
    )


def peer_model(
    config: ModelConfig,
    boxes: Tensor,  # (N, 4) xyxy, pixels of the image: what the heads look at
) -> nn.Module:
    "torchvision's model with GroupNorm; its proposals are computed, then replaced."
    backbone = resnet_fpn_backbone(
        backbone_name='resnet50',
        weights=None,
        norm_layer=partial(nn.GroupNorm, 32),
        trainable_layers=5,
    )
    pool = MultiScaleRoIAlign(['0', '1', '2', '3'], config.roi.mask_size, 2)
    peer = MaskRCNN(
        backbone,
        config.classes,
        mask_roi_pool=pool,
        min_size=config.image.min_side,
        max_size=config.image.max_side,
        box_batch_size_per_image=config.roi.samples,
    )

    def seed(rpn, args):
        # its samplers draw from the global generator: the numbers that ours draw
        torch.manual_seed(SEED)

    def replaced(rpn, args, result):
        sides = [boxes.new_tensor([w / W, h / H]).repeat(2) for h, w in args[0].image_sizes]
        return [boxes * side for side in sides], result[1]

    peer.rpn.register_forward_hook(replaced)
    peer.rpn.register_forward_pre_hook(seed)
    return peer.train()


def count_rois(
    model: nn.Module,
) -> dict[str, int]:  # 'box' and 'mask': filled anew at each forward
    "How many RoIs go through each head."
    counts = {}
    for name, head in (('box', model.roi_heads.box_head), ('mask', model.roi_heads.mask_head)):
        head.register_forward_pre_hook(
            lambda head, args, name=name: counts.update({name: len(args[0])})
        )
    return counts


def our_iteration(
    model: nn.Module,
    task: Task,
    start: dict[str, Tensor],  # weights to start from
    weights: dict[str, Tensor],  # of the same shapes: overwritten, then trained
) -> tuple[float, dict[str, float]]:  # seconds, losses
    "The library's own inner step."
    for name, o in weights.items():
        o.copy_(start[name])
    rng = torch.Generator().manual_seed(SEED)
    begin = perf_counter()
    losses = inner_step(model, weights, (task.images, task.targets, task.boxes), LR, random=rng)
    return perf_counter() - begin, losses


def peer_iteration(
    model: nn.Module,
    task: Task,
    start: dict[str, Tensor],  # weights to start from
) -> tuple[float, dict[str, float]]:  # seconds, losses
    "Forward, backward and a step of torch.optim.SGD."
    model.load_state_dict(start)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    begin = perf_counter()
    losses = model(task.images, task.targets)
    sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return perf_counter() - begin, {name: o.item() for name, o in losses.items()}


def check_equal(
    losses: list[dict[str, float]],  # ours, the peer's
    counts: list[dict[str, int]],  # likewise
    samples: int,  # RoIs that both heads should see
) -> None:
    "The same RoIs and, but for rounding, the same losses."
    expected = dict(box=samples, mask=samples // 4)
    assert counts == [expected, expected], f'expected RoIs {expected} in both, got {counts}'
    ours, peer = losses
    assert ours.keys() == peer.keys() and len(ours) == 5
    for name, value in peer.items():
        assert abs(ours[name] - value) <= 1e-4 * abs(value) + 1e-6, (
            f'{name}: ours {ours[name]}, peer {value}'
        )


def compare(
    sides: list[Callable],  # ours and the peer's: a call gives seconds and losses
    check: Callable,  # of the losses of both
    pairs: int,  # after one that warms up
) -> list[list[float]]:  # seconds of ours, of the peer
    "Alternating: who goes first changes from pair to pair."
    seconds = [[], []]
    for pair in range(pairs + 1):
        results = {i: sides[i]() for i in ((0, 1) if pair % 2 else (1, 0))}
        check([results[i][1] for i in (0, 1)])
        if pair == 0:
            print(
                'losses (ours, peer): '
                + ', '.join(f'{n} {results[0][1][n]:.5f} {v:.5f}' for n, v in results[1][1].items())
            )
        said = f'pair {pair}: ours {results[0][0]:.2f} s, peer {results[1][0]:.2f} s'
        print(said if pair else f'{said} (warm-up, not counted)', flush=True)
        if pair:
            for i in (0, 1):
                seconds[i].append(results[i][0])
    return seconds


def main() -> None:
    "Check and time."
    parser = ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--pairs', type=int, default=5, help='timed pairs of iterations')
    parser.add_argument(
        '--size',
        choices=('full', 'small'),
        default='full',
        help='small: a quick check with a small image and 64 RoIs',
    )
    options = parser.parse_args()
    config, task = configuration(options.size), make_task()
    torch.manual_seed(0)
    ours, peer = build(config), peer_model(config, task.boxes[0])
    start = initial_weights(ours)
    counts = [count_rois(ours), count_rois(peer)]
    sides = [
        partial(our_iteration, ours, task, start, initial_weights(ours)),
        partial(peer_iteration, peer, task, start),
    ]
    seconds = compare(
        sides, lambda losses: check_equal(losses, counts, config.roi.samples), options.pairs
    )
    print(f'RoIs of ours {counts[0]}, of the peer {counts[1]}; {torch.get_num_threads()} threads')
    print(f'median seconds: ours {median(seconds[0]):.2f}, peer {median(seconds[1]):.2f}')
    name = 'full-iteration' if options.size == 'full' else 'small-iteration'
    print(f'ratio {name} {median(a / b for a, b in zip(*seconds)):.3f}')


if __name__ == '__main__':
    main()
