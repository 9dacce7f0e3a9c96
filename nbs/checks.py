"What the exercises ask for: their answers, a table a page. Try an exercise before you look here."

import torch
from exercises import like, number

CHECKS = {}

# 00: the whole method

# 01: ResNet

# 02: FPN

# 03: boxes

# 04: RPN

# 05: RoIAlign

# 06: box head

# 07: Lovász

# 08: mask head

# 09: Mask R-CNN

# 10: the small model

# 11: metrics

# 12: fine-tuning

# 13: following

# 14: the meta-gradient


def bowls(g, steps=3):
    "A slope v, gradients and symmetric Hessians of some steps, and rates, all of 4 weights."
    squares = torch.randn(steps, 4, 4, generator=g)
    return [
        torch.randn(4, generator=g),
        torch.randn(steps, 4, generator=g),
        squares + squares.mT,
        0.2 * torch.rand(4, generator=g),
    ]


def one_bowl(g):
    v, gradients, hessians, rates = bowls(g, 1)
    return [v, gradients[0], hessians[0], rates]


def back(v, g, hessian, rates):
    return v - hessian @ (rates * v), -v * g


def way_back(v, gradients, hessians, rates):
    total = torch.zeros(4)
    for t in (2, 1, 0):
        v, part = back(v, gradients[t], hessians[t], rates)
        total = total + part
    return v, total


def end_of_path(start, target, hessian, rates, steps):
    for _ in range(steps):
        start = start - rates * (hessian @ start)
    return start - target


CHECKS |= {
    '14.1': number(0.008128),
    '14.2': like(
        lambda v, rates, h: v * (1 - rates * h) * (1 - rates * h) - v,
        lambda g: [torch.randn(3, generator=g), *torch.rand(2, 3, generator=g)],
    ),
    '14.3': like(back, one_bowl),
    '14.4': like(way_back, bowls),
    '14.5': like(end_of_path, lambda g: [*one_bowl(g), 3]),
    '14.6': like(
        lambda start, end, rates: (start - end) / rates,
        lambda g: [*torch.randn(2, 3, 5, generator=g), 0.1 + torch.rand(3, 1, generator=g)],
    ),
    '14.7': like(
        lambda v, gradients: torch.stack([-(v * g).sum(1) for g in gradients]),
        lambda g: [torch.randn(4, 4, generator=g), torch.randn(4, 4, 4, generator=g)],
    ),
    '14.8': number(20, 0),
}

# 15: tasks

# 16: parent

# 17: training

# 18: study
