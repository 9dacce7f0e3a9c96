"The small body with GroupNorm: where its self-distillation begins."

import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from eosvos import small
from eosvos.core import demo_frame
from eosvos.weights import load_model

FILE = Path(__file__).parent.parent / 'benchmarks/group_norm.py'


spec = importlib.util.spec_from_file_location('group_norm', FILE)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@torch.no_grad()
def test_one_layer_starts_as_what_it_was():
    "On the picture that its scale and shift were taken from, GroupNorm changes nothing."
    torch.manual_seed(0)
    old, new = small.ConvNorm(3, 16, 3), small.ConvGroupNorm(3, 16, 3)
    for values in (old.bn.weight, old.bn.bias, old.bn.running_mean):
        values.copy_(torch.randn(16))
    old.bn.running_var.copy_(torch.rand(16) + 0.5)
    picture = torch.randn(1, 3, 20, 30)
    script._start(new, old, None, old(picture))
    torch.testing.assert_close(new(picture), old(picture), atol=1e-3, rtol=1e-3)
    assert (new(5 * picture) - old(5 * picture)).abs().max() > 1, 'but it does on another one'


@torch.no_grad()
def test_the_body_starts_near_what_it_was():
    old, config = load_model('parent')
    new = small.build(replace(config, body='lite0-group')).backbone.body
    assert not any(isinstance(m, small.FrozenBatchNorm2d) for m in new.modules())
    assert sum(isinstance(m, nn.GroupNorm) for m in new.modules()) == 48
    images = torch.stack([demo_frame(i)[0][:, ::2, ::2] for i in (0, 12)]) * 2 - 1
    apart = script.distance(new(images), old.backbone.body(images))
    script.take_over(old.backbone.body, new, images)
    shares = script.distance(new(images), old.backbone.body(images))
    assert (shares < torch.tensor([0.1, 0.2, 0.3, 0.6])).all() and (shares < apart).all()
