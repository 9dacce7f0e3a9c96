"""Self-distillation: from the parent, with frozen BatchNorm, to one with GroupNorm in its body.

    .venv/bin/python benchmarks/group_norm.py DATA --out runs/group-norm

DATA is that of `ablation.py`. The last file that is written, `parent-400.safetensors`, is shipped
as `parent-group`: meta-training starts from it. Each GroupNorm starts as close as it can get: its
scale and shift are those that reproduce the BatchNorm's output on an average picture. Then the new
body learns to reproduce the features C2 to C5 of the old one on pictures without their masks;
`group_norm.csv` beside the trainings' results keeps how far it is.
"""

import csv
from argparse import ArgumentParser
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eosvos.core import generator
from eosvos.datasets import HELD_OUT, training_sets
from eosvos.small import ConvGroupNorm, build
from eosvos.weights import load_model, save_weights

SETS = 'davis', 'duts', 'ecssd', 'coco128', 'cats', 'pennfudan'
SIZE = 192, 320  # of the pictures
BATCH = 4
LOG = Path(__file__).with_name('ablation') / 'group_norm.csv'


def take_over(old: nn.Module, new: nn.Module, images: Tensor) -> None:  # images: (B, 3, H, W)
    "Give a body with GroupNorm the weights and, on an average picture, the outputs of another."
    hooks = [
        theirs.register_forward_hook(partial(_start, ours))
        for theirs, ours in zip(old.modules(), new.modules())
        if isinstance(ours, ConvGroupNorm)
    ]
    with torch.no_grad():
        old(images)
    for hook in hooks:
        hook.remove()


def _start(new, old, inputs, out):  # out: (B, C, H, W), of the old layer
    "Scale and shift of each group such that its mean and deviation are what they were."
    scale, shift = old.bn.scale_and_shift()
    new.conv.weight.copy_(old.conv.weight * scale[:, None, None, None])
    raw = out - shift[:, None, None]  # what the new convolution gives
    parts = raw.unflatten(1, (new.bn.num_groups, -1)).flatten(2)  # (B, groups, ...)
    deviation, mean = parts.std(2, correction=0).mean(0), parts.mean(2).mean(0)
    channels = len(shift) // new.bn.num_groups  # of a group
    new.bn.weight.copy_(deviation.repeat_interleave(channels))
    new.bn.bias.copy_(mean.repeat_interleave(channels) + shift)


def distance(new: list[Tensor], old: list[Tensor]) -> Tensor:  # for each level: (B, C, H, W)
    "Squared difference as a share of the old features' variance: (levels,)."
    shares = [
        F.mse_loss(ours, theirs) / theirs.var() for ours, theirs in zip(new, old, strict=True)
    ]
    return torch.stack(shares)


def pictures(sets: list[list], key: tuple, count: int) -> Tensor:  # (count, 3, *SIZE)
    "Frames of random sequences of random sets."
    chosen, random = [], generator(*key)

    def draw(items):
        return items[int(torch.randint(len(items), (), generator=random))]

    for _ in range(count):
        sequence = draw(draw(sets))
        image = sequence.image(draw(range(len(sequence.frames))))
        chosen.append(F.interpolate(image[None], SIZE, mode='bilinear', antialias=True))
    return torch.cat(chosen)


def distil(start: str, data: Path, out: Path, steps: int, lr: float) -> None:
    "Write the parent with the new body, and the table of how it came to its features."
    old, config = load_model(start)
    config = replace(config, body='lite0-group')
    new = build(config)
    rest = {k: v for k, v in old.state_dict().items() if not k.startswith('backbone.body.')}
    new.load_state_dict(rest, strict=False)
    trained = list(training_sets(data, SETS, HELD_OUT).values())
    videos = training_sets(data, ['davis'])['davis']
    held_out = [[s for s in videos if s.name in HELD_OUT]]
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.image.mean, config.image.std))

    def normalised(sets, count, *key):
        return (pictures(sets, key, count) - mean) / std

    test = normalised(held_out, 32, 'test')
    take_over(old.backbone.body, new.backbone.body, normalised(trained, 32, 'start'))
    with torch.no_grad():
        truth = old.backbone.body(test)
    optimizer = torch.optim.Adam(new.backbone.body.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    table = [['step', 'C2', 'C3', 'C4', 'C5']]
    out.mkdir(parents=True, exist_ok=True)
    for step in range(steps + 1):
        if step in (0, 10, 25, 50, 100, 200) or step == steps:
            with torch.no_grad():
                shares = distance(new.backbone.body(test), truth).tolist()
            table.append([step, *(f'{share:.4f}' for share in shares)])
            print(*table[-1], flush=True)
            notes = dict(stage='distilled', start=Path(start).name, steps=str(step))
            save_weights(new, config, out / f'parent-{step}.safetensors', notes)
        if step == steps:
            break
        images = normalised(trained, BATCH, 'train', step)
        with torch.no_grad():
            wanted = old.backbone.body(images)
        loss = distance(new.backbone.body(images), wanted).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with LOG.open('w', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows(table)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path)
    parser.add_argument('--start', default='parent')
    parser.add_argument('--out', type=Path, default=Path('runs/group-norm'))
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--lr', type=float, default=2e-4)
    a = parser.parse_args()
    distil(a.start, a.data, a.out, a.steps, a.lr)


if __name__ == '__main__':
    main()
