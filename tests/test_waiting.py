"How often a GPU would be waited for: in an inner step, while a batch is made, in a followed frame."

from dataclasses import replace

import pytest
import torch
from waiting import Waits

from eosvos import boxes
from eosvos.core import DEMO, demo_frame, generator
from eosvos.fine_tuning import FineTuneConfig, augmented_batches, initial_weights, inner_step
from eosvos.follow import PAPER_SEGMENT, Tracker, follow
from eosvos.small import PAPER, build
from eosvos.video import open_clip, read_mask


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    "NMS of many boxes is another one on the CPU, which asks for each group."
    monkeypatch.setattr(boxes, '_FEW', 10**9)


@pytest.fixture(scope='module')
def model():
    "The paper's, with a small input."
    torch.manual_seed(0)
    image = replace(PAPER.image, min_side=128, max_side=224)
    return build(replace(PAPER, image=image, roi=replace(PAPER.roi, score=0.01)))


def test_what_waits_and_what_does_not():
    with Waits() as waits:
        there = torch.rand(3, device='cpu')  # as on a GPU
        here = torch.rand(3)
    for question, expected in (
        (lambda: here.tolist(), 0),
        (lambda: here[here > 0].sum().item(), 0),
        (lambda: there + there.new_zeros(3), 0),
        (lambda: there[:2].clamp(max=0.5) * 2, 0),
        (lambda: there.tolist(), 1),
        (lambda: there.sum().item(), 1),
        (lambda: bool((there > 0).any()), 1),
        (lambda: there[there > 0], 1),
        (lambda: there.nonzero(), 1),
        (lambda: there.cpu().sum().item(), 1),
        (lambda: there[torch.tensor([0, 1])], 1),
        (lambda: there.new_tensor([0, 1]), 1),
        (lambda: here.to(torch.device('cpu')), 1),
        (lambda: here.to(there, non_blocking=True) + there, 0),
    ):
        with Waits() as waits:
            question()
        assert waits.count == expected, (question, waits.where)


def test_inner_step(model):
    "Three copies, as the paper's configuration takes them."
    image, mask = (o[..., ::2, ::2].contiguous() for o in demo_frame())
    weights, config = initial_weights(model), FineTuneConfig()
    for t in range(2):  # what is made once is made in the first
        with Waits() as feeding:
            batch = next(augmented_batches(image, mask, config, ('waiting', t)))
        with Waits() as waits:
            inner_step(model, weights, batch, 1e-4, 10.0, generator('waiting', t))
    assert waits.count <= 15, waits.where
    assert feeding.count <= 3 * config.batch, feeding.where


def test_a_followed_frame(model):
    fine_tune = replace(PAPER_SEGMENT.fine_tune, iterations=1)
    tracker = Tracker(model, 1e-4, replace(PAPER_SEGMENT, fine_tune=fine_tune))
    clip, masks = open_clip(DEMO / 'frames'), {0: read_mask(DEMO / 'masks/00000.png')}
    following = follow(tracker, clip, masks)
    for _ in range(2):
        next(following)
    with Waits() as waits:
        _, ids = next(following)
    assert (ids == 1).any(), 'nothing was found, so no mask was drawn'
    assert waits.count <= 8, waits.where
