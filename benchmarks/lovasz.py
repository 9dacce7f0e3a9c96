"""Batched Lovász hinge against a loop over RoIs, forward and backward, on the CPU in one process.

The peer is the formula of Berman et al. (2018, Algorithm 1) applied to one RoI after the other, as
the authors of e-OSVOS do: sort, running sums, difference, dot product. Run as
`.venv/bin/python benchmarks/lovasz.py`; lines `ratio NAME VALUE` give ours / peer.
"""

from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from eosvos.core import generator
from eosvos.lovasz import lovasz_hinge

ROIS, SIDE, PAIRS = 128, 56, 15


def one_roi(
    logits: Tensor,  # (P,)
    targets: Tensor,  # (P,) in [0, 1], soft at borders
) -> Tensor:  # scalar
    "The Lovász hinge of one RoI."
    errors, order = torch.sort(1 - logits * (2 * targets - 1), descending=True)
    truth = targets[order]
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    weights = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return torch.dot(errors.relu(), weights)


def loop(
    logits: Tensor,  # (R, H, W)
    targets: Tensor,  # (R, H, W)
) -> Tensor:  # scalar
    "The peer: mean over RoIs, one iteration of Python each."
    return torch.stack([one_roi(z.flatten(), y.flatten()) for z, y in zip(logits, targets)]).mean()


def samples(
    confidence: float,  # how far the logits are on the right side, on average
) -> tuple[Tensor, Tensor]:  # logits and targets (R, H, W)
    "Ellipses with soft borders, and noisy logits of them."
    rng = generator('lovasz benchmark')
    centre, size = torch.rand(2, ROIS, 2, 1, 1, generator=rng)
    row, column = torch.arange(SIDE)[:, None] / SIDE, torch.arange(SIDE) / SIDE
    centre, size = 0.3 + 0.4 * centre, 0.2 + 0.3 * size
    distance = ((row - centre[:, 0]) / size[:, 0]) ** 2 + (
        (column - centre[:, 1]) / size[:, 1]
    ) ** 2
    targets = (0.5 + 5 * (1 - distance)).clamp(0, 1)
    return confidence * (2 * targets - 1) + torch.randn(ROIS, SIDE, SIDE, generator=rng), targets


def run(
    loss,  # `lovasz_hinge` or `loop`
    logits: Tensor,  # (R, H, W)
    targets: Tensor,  # (R, H, W)
) -> tuple[float, Tensor, Tensor]:  # seconds, loss, gradient
    "Forward and backward once."
    logits = logits.clone().requires_grad_()
    start = perf_counter()
    value = loss(logits, targets)
    value.backward()
    return perf_counter() - start, value.detach(), logits.grad


def check_equal(
    logits: Tensor,  # (R, H, W)
    targets: Tensor,  # (R, H, W)
) -> None:
    """Loss and gradient of both agree to 1e-6: in float64 relatively, in float32 absolutely.

    Relative to its norm the peer's float32 gradient is good to some 1e-4 only, since it subtracts
    neighbouring fractions.
    """
    for dtype in (torch.float64, torch.float32):
        (_, ours, our_gradient), (_, peer, peer_gradient) = (
            run(f, logits.to(dtype), targets.to(dtype)) for f in (lovasz_hinge, loop)
        )
        loss, gradient = (ours - peer).abs(), our_gradient - peer_gradient
        relative = gradient.norm() / peer_gradient.norm()
        print(f'{dtype}: loss {ours:.6f} differs by {loss:.1e},', end=' ')
        print(f'gradient by {gradient.abs().max():.1e}, {relative:.1e} of its norm')
        assert loss < 1e-6 * max(1, peer) and gradient.abs().max() < 1e-6
        assert relative < (1e-6 if dtype == torch.float64 else 1e-2)


def compare(
    logits: Tensor,  # (R, H, W)
    targets: Tensor,  # (R, H, W)
) -> tuple[float, float]:  # median seconds of ours and of the peer
    "Alternating pairs, after two that warm up."
    seconds = [
        (run(lovasz_hinge, logits, targets)[0], run(loop, logits, targets)[0])
        for _ in range(PAIRS + 2)
    ][2:]
    return median(ours for ours, _ in seconds), median(peer for _, peer in seconds)


def main() -> None:
    "Check and time, with untrained and trained logits, on one thread and on two."
    for state, confidence in (('untrained', 0.0), ('trained', 3.0)):
        logits, targets = samples(confidence)
        check_equal(logits, targets)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours, peer = compare(logits, targets)
            name = f'lovasz-batched-{ROIS}x{SIDE}x{SIDE}-{state}-{threads}-thread'
            name += 's' * (threads > 1)
            print(f'{name}: ours {ours * 1e3:.1f} ms, peer {peer * 1e3:.1f} ms')
            print(f'ratio {name} {ours / peer:.3f}')


if __name__ == '__main__':
    main()
