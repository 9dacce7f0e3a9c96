"""Backpropagation through time by autograd alone, with which the meta-gradient is compared.

It is the function of the page on the meta-gradient, nbs/14_meta.ipynb."""

import torch
from torch import nn

from eosvos.core import generator
from eosvos.fine_tuning import Batch, Rates, Weights, leaves, losses_with
from eosvos.meta import MetaGradient, _step


def unrolled_meta_gradient(
    model: nn.Module,
    weights: Weights,  # initialisation
    rates: Rates,
    batches: list[Batch],  # one for each of the T inner steps
    test: Batch,  # for the meta loss
    clip: float | None = None,  # greatest norm of an inner gradient
    key: tuple[int | str, ...] = (),  # seed of the sampling
    second_order: bool = False,  # differentiate the inner gradients too
) -> MetaGradient:
    "Backpropagation through time (equation 4), by autograd through all inner steps at once."
    fast = start = leaves(model, weights)
    learned = {name: r.detach().requires_grad_() for name, r in rates.items()}
    inner = []
    for t, batch in enumerate(batches):
        rng = generator(*key, 'sample', t)
        fast, values = _step(model, weights, fast, learned, batch, clip, rng, second_order)
        inner.append(values)
    losses = losses_with(model, weights | fast, test, generator(*key, 'test', len(batches)))
    inputs = [*start.values(), *learned.values()]
    found = torch.autograd.grad(sum(losses.values()), inputs, materialize_grads=True)
    gradients = dict(zip(start, found)), dict(zip(learned, found[len(start) :]))
    return MetaGradient(*gradients, {name: loss.item() for name, loss in losses.items()}, inner)
