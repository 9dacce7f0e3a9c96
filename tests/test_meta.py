"Meta-gradients of both orders: against autograd, finite differences and torch's own SGD; memory."

from dataclasses import replace
from functools import partial
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from eosvos.core import demo_frame, generator
from eosvos.fine_tuning import (
    LEVELS,
    AugmentConfig,
    FineTuneConfig,
    as_target,
    augmented_batches,
    fine_tune,
    initial_weights,
    learning_rates,
    loss_gradient,
)
from eosvos.meta import meta_gradient, unrolled_meta_gradient
from eosvos.weights import load_model, load_rates

KEY = ('seed',)
STEPS = 3
STRONG, WEAK = 0.05, 1e9  # clip every gradient of the toy, or none


class Toy(nn.Module):
    "Smooth, with two losses that do not use `unused`. The random numbers shift the input."

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Tanh(), nn.Conv1d(4, 2, 1)).double()
        self.scale = nn.Parameter(torch.tensor(0.9, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))

    def forward(self, images, targets, generator=None):
        shift = 0.1 * torch.rand(3, 1, generator=generator, dtype=torch.float64)
        out = self.net(images[0] + shift) * self.scale
        return dict(fit=(out - targets[0]).square().mean(), size=0.1 * out.square().mean())


def batch(seed):
    "Six points of three coordinates, and where they should go."
    random = generator('batch', seed)
    return [torch.randn(1, 3, 6, generator=random, dtype=torch.float64)], [
        torch.randn(1, 2, 6, generator=random, dtype=torch.float64)
    ]


METHODS = [
    partial(meta_gradient, order=1),
    partial(meta_gradient, order=2),
    unrolled_meta_gradient,
    partial(unrolled_meta_gradient, second_order=True),
]
TRAIN, TEST = [batch(t) for t in range(STEPS)], batch('test')


def rates_of(weights, level='neuron', value=0.05, seed=1):
    "Rates in float64. A scalar is its own neuron."
    shaped = {name: w if w.dim() else w[None] for name, w in weights.items()}
    return {
        name: r.double() if weights.get(name, r).dim() else r.double().view(())
        for name, r in learning_rates(shaped, level, value, seed=seed).items()
    }


def setting(level='neuron', **options):
    "Model, initialisation, rates, batches, test batch: the arguments of a meta-gradient."
    toy = Toy()
    start = initial_weights(toy)
    return toy, start, rates_of(start, level, **options), TRAIN, TEST


def assert_close(got, expected, share):
    "Each tensor is as close as a share of its norm; where that is 0, equal."
    assert got.keys() == expected.keys()
    for name, e in expected.items():
        assert got[name].shape == e.shape and got[name].dtype == e.dtype
        assert (got[name] - e).norm() <= share * e.norm(), name


def assert_equal(a, b):
    "The same meta-gradient to the last bit."
    for part in ('weights', 'rates'):
        assert_close(getattr(a, part), getattr(b, part), 0)
    assert a.losses == b.losses and a.inner == b.inner


def both(task, share, order=1, **options):
    "Our meta-gradient, found to agree with that of autograd through all steps."
    ours = meta_gradient(*task, key=KEY, order=order, **options)
    theirs = unrolled_meta_gradient(*task, key=KEY, second_order=order == 2, **options)
    assert_close(ours.weights, theirs.weights, share)
    assert_close(ours.rates, theirs.rates, share)
    assert ours.losses == pytest.approx(theirs.losses, rel=share) and len(ours.inner) == len(
        theirs.inner
    ) == len(task[3])
    for a, b in zip(ours.inner, theirs.inner):
        assert a == pytest.approx(b, rel=share)
    return ours


# ---- against autograd


@pytest.mark.parametrize('order', [1, 2])
@pytest.mark.parametrize('step_weights', [None, {0: 0.2, 2: 0.3, STEPS: 0.5}, {2: 1.0}])
@pytest.mark.parametrize('clip', [None, WEAK, STRONG])
@pytest.mark.parametrize('level', LEVELS)
def test_equals_autograd(level, clip, step_weights, order):
    found = both(setting(level), 1e-10, order, clip=clip, step_weights=step_weights)
    assert all(g.any() for name, g in found.weights.items() if name != 'unused')
    assert all(g.any() for name, g in found.rates.items() if name != 'unused')


@pytest.mark.parametrize('steps', [1, 5])
@pytest.mark.parametrize('clip', [None, STRONG])
def test_exact_after_one_and_five_steps(steps, clip):
    toy, start, rates, _, test = setting(value=0.3)
    batches = [batch(t) for t in range(steps)]
    exact = both((toy, start, rates, batches, test), 1e-10, 2, clip=clip)
    first = meta_gradient(toy, start, rates, batches, test, clip, KEY)
    assert exact.losses == first.losses and exact.inner == first.inner
    name = 'net.0.weight'
    assert (exact.weights[name] - first.weights[name]).norm() > 0.01 * exact.weights[name].norm()


class Line(nn.Module):
    "A loss without curvature, and a weight that is not in it."

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, images, targets, generator=None):
        return dict(loss=(self.theta * images[0]).sum())


def test_without_curvature_both_orders_are_equal():
    line, data = Line(), ([torch.tensor([1.0, 2.0])], [])
    task = line, initial_weights(line), rates_of(initial_weights(line)), [data] * 2, data
    first, exact = (meta_gradient(*task, key=KEY, order=order) for order in (1, 2))
    assert_close(exact.weights, first.weights, 0)
    assert_close(exact.rates, first.rates, 1e-12)


def test_clipping_acts_only_where_the_norm_is_greater():
    free, weak, strong = (
        meta_gradient(*setting(), clip=clip, key=KEY) for clip in (None, WEAK, STRONG)
    )
    assert_equal(free, weak)
    assert strong.inner[0] == free.inner[0] and strong.inner[1] != free.inner[1]


def test_a_rate_for_some_and_one_for_all_others():
    toy, start, _, *data = setting()
    rates = {
        'net.0.weight': torch.full((4, 1, 1), 0.07, dtype=torch.float64),
        '': torch.tensor(0.03, dtype=torch.float64),
    }
    both((toy, start, rates, *data), 1e-10, 2)
    found = both((toy, start, rates, *data), 1e-10)
    each = meta_gradient(
        toy,
        start,
        {name: rates.get(name, rates['']).expand_as(w).clone() for name, w in start.items()},
        *data,
        key=KEY,
    )
    others = sum(g.sum() for name, g in each.rates.items() if name != 'net.0.weight')
    torch.testing.assert_close(found.rates[''], others, rtol=1e-10, atol=0)
    assert_close(
        {'w': found.rates['net.0.weight']},
        {'w': each.rates['net.0.weight'].sum((1, 2), keepdim=True)},
        1e-10,
    )


@pytest.mark.parametrize('order', [1, 2])
def test_step_weights_add_up(order):
    found = partial(meta_gradient, *setting(), key=KEY, order=order)
    whole = found(step_weights={1: 0.3, STEPS: 0.7})
    parts = [(share, found(step_weights={t: 1.0})) for t, share in ((1, 0.3), (STEPS, 0.7))]
    for part in ('weights', 'rates'):
        assert_close(
            getattr(whole, part),
            {n: sum(s * getattr(p, part)[n] for s, p in parts) for n in getattr(whole, part)},
            1e-12,
        )
    assert whole.losses == parts[1][1].losses == found().losses, 'those of the last time'
    assert whole.loss == sum(whole.losses.values())


def test_no_steps_leave_the_ordinary_gradient():
    toy, start, rates, _, test = setting()
    found = both((toy, start, rates, [], test), 1e-10)
    sum(toy(*test, generator=generator(*KEY, 'test', 0)).values()).backward()
    assert_close(
        found.weights,
        {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in toy.named_parameters()
        },
        1e-12,
    )
    assert not any(g.any() for g in found.rates.values()) and found.inner == []


def test_weights_that_no_loss_uses_get_zeros():
    toy, start, rates, *data = setting()
    for method in METHODS:
        found = method(toy, start, rates, *data)
        assert torch.equal(found.weights['unused'], torch.zeros(2, 3, dtype=torch.float64))
        assert torch.equal(found.rates['unused'], torch.zeros(2, 1, dtype=torch.float64))


# ---- plain SGD


@pytest.mark.parametrize(
    'clip, share', [(None, 1e-10), (STRONG, 1e-4)]
)  # torch divides by the norm + 1e-6
def test_equal_rates_are_sgd_of_torch_and_then_a_gradient(clip, share):
    toy, start, _, train, test = setting()
    lr = 0.05
    rates = {name: torch.full_like(r, lr) for name, r in rates_of(start).items()}
    found = meta_gradient(toy, start, rates, train, test, clip, KEY)
    optimizer = torch.optim.SGD(toy.parameters(), lr)
    for t, data in enumerate(train):
        optimizer.zero_grad()
        losses = toy(*data, generator=generator(*KEY, 'sample', t))
        assert found.inner[t] == pytest.approx(
            {name: loss.item() for name, loss in losses.items()}, rel=share
        )
        sum(losses.values()).backward()
        if clip:
            nn.utils.clip_grad_norm_(toy.parameters(), clip)
        optimizer.step()
    optimizer.zero_grad()
    sum(toy(*test, generator=generator(*KEY, 'test', STEPS)).values()).backward()
    used = {name: p for name, p in toy.named_parameters() if p.grad is not None}
    assert used.keys() == start.keys() - {'unused'}
    assert_close(
        {name: found.weights[name] for name in used},
        {name: p.grad for name, p in used.items()},
        share,
    )
    way = {
        name: (p.grad * (p.detach() - start[name]) / lr).sum_to_size(rates[name].shape)
        for name, p in used.items()
    }  # - sum of g
    assert_close({name: found.rates[name] for name in used}, way, max(share, 1e-9))


# ---- finite differences


def meta_loss(task, clip):
    "The meta loss after fine-tuning from scratch."
    toy, start, rates, train, test = task
    tuned, _ = fine_tune(toy, start, train, FineTuneConfig(clip=clip), KEY, rates)
    return sum(
        loss_gradient(toy, tuned, test, None, generator(*KEY, 'test', len(train)))[1].values()
    )


def moved(task, weights, rates, by):
    "The task with initialisation and rates moved along two directions."
    toy, start, lam, *data = task
    return (
        toy,
        *(
            {n: t + by * d[n] for n, t in what.items()}
            for what, d in ((start, weights), (lam, rates))
        ),
        *data,
    )


def along(found, weights, rates):
    "The slope in a direction that a meta-gradient predicts."
    return sum(
        (g[n] * d[n]).sum() for g, d in ((found.weights, weights), (found.rates, rates)) for n in g
    ).item()


def directions(task, seed):
    "One of the initialisation, one of the rates, each of length 1."
    random = generator('direction', seed)
    for what in task[1:3]:
        drawn = {
            n: torch.randn(t.shape, generator=random, dtype=torch.float64) for n, t in what.items()
        }
        norm = torch.stack([d.norm() for d in drawn.values()]).norm()
        yield {n: d / norm for n, d in drawn.items()}


def slope(task, weights, rates, clip, h=1e-5):
    "The slope in a direction, by central differences."
    return (
        meta_loss(moved(task, weights, rates, h), clip)
        - meta_loss(moved(task, weights, rates, -h), clip)
    ) / (2 * h)


@settings(max_examples=25, deadline=None)
@given(
    value=st.floats(1e-3, 0.5),
    level=st.sampled_from(LEVELS),
    steps=st.integers(0, STEPS),
    clip=st.sampled_from([None, STRONG]),
    seed=st.integers(0, 1000),
)
def test_exact_order_equals_finite_differences(value, level, steps, clip, seed):
    toy, start, rates, train, test = setting(level, value=value, seed=seed)
    task = toy, start, rates, train[:steps], test
    found = meta_gradient(*task, clip=clip, key=KEY, order=2)
    weights, lam = directions(task, seed)
    still = [{n: torch.zeros_like(d) for n, d in what.items()} for what in (weights, lam)]
    for direction in ((weights, still[1]), (still[0], lam)):
        assert slope(task, *direction, clip) == pytest.approx(
            along(found, *direction), rel=1e-6, abs=1e-8
        )


@settings(max_examples=25, deadline=None)
@given(value=st.floats(1e-3, 0.5), level=st.sampled_from(LEVELS), seed=st.integers(0, 1000))
def test_for_the_rates_of_one_step_first_order_is_exact(value, level, seed):
    toy, start, rates, train, test = setting(level, value=value, seed=seed)
    task = toy, start, rates, train[:1], test
    weights, lam = directions(task, seed)
    still = {n: torch.zeros_like(d) for n, d in weights.items()}
    found = meta_gradient(*task, key=KEY)
    assert slope(task, still, lam, None) == pytest.approx(
        along(found, still, lam), rel=1e-6, abs=1e-8
    )


@pytest.mark.parametrize('level', LEVELS)
def test_a_step_against_the_gradient_lowers_the_meta_loss(level):
    task = setting(level, value=0.02)
    found = meta_gradient(*task, key=KEY)
    for gradients in (
        (found.weights, {n: torch.zeros_like(g) for n, g in found.rates.items()}),
        ({n: torch.zeros_like(g) for n, g in found.weights.items()}, found.rates),
    ):
        lower, here, higher = (
            meta_loss(moved(task, *gradients, by), None) for by in (-1e-3, 0, 1e-3)
        )
        assert lower < here < higher


# ---- manners


def copied(task):
    "Everything that a meta-gradient must leave alone."
    toy, start, rates, train, test = task
    return [
        t.clone()
        for t in (
            *toy.parameters(),
            *start.values(),
            *rates.values(),
            *(t for b in (*train, test) for part in b for t in part),
        )
    ]


@pytest.mark.parametrize('function', METHODS)
@pytest.mark.parametrize('count', [0, STEPS])
def test_inputs_stay_as_they_are(function, count):
    toy, start, rates, train, test = setting()
    task = toy, start, rates, train[:count], test
    before = copied(task)
    found = function(*task, key=KEY, step_weights={0: 0.5, count: 0.5})
    assert all(torch.equal(a, b) for a, b in zip(before, copied(task)))
    assert all(p.requires_grad and p.grad is None for p in toy.parameters())
    assert not any(
        t.requires_grad
        for t in (*start.values(), *rates.values(), *found.weights.values(), *found.rates.values())
    )
    theirs = {t.data_ptr() for t in (*toy.parameters(), *start.values(), *rates.values())}
    assert not theirs & {t.data_ptr() for t in (*found.weights.values(), *found.rates.values())}


@pytest.mark.parametrize('order', [1, 2])
@pytest.mark.parametrize('step_weights', [None, {1: 0.3, STEPS: 0.7}])
def test_frozen_weights_have_no_meta_gradient(step_weights, order):
    task = setting()
    whole = meta_gradient(*task, key=KEY, step_weights=step_weights, order=order)
    task[0].net[0].weight.requires_grad_(False)
    found = both(task, 1e-10, order, step_weights=step_weights)
    assert found.weights.keys() == whole.weights.keys() - {'net.0.weight'}
    assert not found.rates['net.0.weight'].any()
    assert found.rates['net.2.weight'].any() and found.losses != whole.losses


@pytest.mark.parametrize('function', METHODS)
def test_the_key_decides_all_draws(function):
    torch.manual_seed(1)
    first = function(*setting(), key=('a', 1))
    torch.manual_seed(2)
    assert_equal(first, function(*setting(), key=('a', 1)))
    other = function(*setting(), key=('a', 2))
    assert other.inner[0] != first.inner[0] and other.losses != first.losses


@pytest.mark.parametrize('order', [1, 2])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('where', [0, STEPS - 1, 'test'])
def test_losses_that_are_no_numbers_are_refused(value, where, order):
    toy, start, rates, train, test = setting()
    bad = train[0][0], [train[0][1][0] * value]
    train = [bad if t == where else data for t, data in enumerate(train)]
    task = toy, start, rates, train, bad if where == 'test' else test
    before = copied(task)
    with pytest.raises(FloatingPointError, match=r"losses are not finite: \{'fit': (nan|inf)"):
        meta_gradient(*task, order=order)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, copied(task)))


def test_steps_that_lead_to_no_numbers_are_refused():
    toy, start, _, train, test = setting()
    with pytest.raises(FloatingPointError, match='not finite'):
        meta_gradient(toy, start, {'': torch.tensor(1e200, dtype=torch.float64)}, train, test)


# ---- the small model


@pytest.fixture(scope='module')
def small():
    "The shipped model in float64, its weights, rates, two batches of two views, a later frame."
    model, _ = load_model('small')
    model = model.double()
    model.roi_heads.config = replace(model.roi_heads.config, samples=8, positives=1 / 8)
    model.image_config = replace(model.image_config, min_side=48, max_side=96)
    (image, ids), (later, later_ids) = (demo_frame(i) for i in (0, 12))
    image, later = (o[:, ::4, ::4].double() for o in (image, later))
    config = FineTuneConfig(iterations=2, batch=2, view=AugmentConfig(angle=10))
    start = initial_weights(model)
    return (
        model,
        start,
        rates_of(start, value=1e-3),
        list(augmented_batches(image, (ids == 1)[::4, ::4], config, KEY)),
        later,
        (later_ids == 1)[::4, ::4],
    )


@pytest.fixture
def tiny(small):
    "The same in float32, with rates of 0, so that all steps are the same."
    model, start, rates, train, later, mask = small
    model, _ = load_model('small')
    model.roi_heads.config, model.image_config = small[0].roi_heads.config, small[0].image_config
    start = initial_weights(model)
    still = {name: torch.zeros_like(r, dtype=torch.float32) for name, r in rates.items()}
    images, targets = train[0]
    train = [([images[0].float()], targets[:1])]
    return model, start, still, train, ([later.float()], [as_target(mask)])


@pytest.mark.parametrize('clip, step_weights', [(5.0, {1: 0.4, 2: 0.6}), (None, None)])
def test_first_order_on_the_small_model(small, clip, step_weights):
    model, start, rates, train, later, mask = small
    task = model, start, rates, train, ([later], [as_target(mask)])
    found = both(task, 1e-8, clip=clip, step_weights=step_weights)
    assert len(found.weights) == len(found.rates) == len(list(model.parameters())) and all(
        g.any() for g in found.weights.values()
    )


def test_on_the_small_model_without_an_object_in_the_test_frame(small):
    model, start, rates, train, later, mask = small
    one = {'': torch.tensor(1e-3, dtype=torch.float64)}
    found = both((model, start, one, train[:1], ([later], [as_target(mask & False)])), 1e-8)
    silent = [name for name, g in found.weights.items() if not g.any()]
    assert any('mask_head' in name for name in silent) and not any(
        'backbone.body' in name for name in silent
    )
    assert found.losses['loss_mask'] == 0 and found.rates[''].shape == ()


@pytest.mark.parametrize('steps, clip, step_weights', [(1, None, None), (5, 5.0, {2: 0.4, 5: 0.6})])
def test_exact_on_the_small_model_with_its_own_rates(small, steps, clip, step_weights):
    model, start, _, train, later, mask = small
    rates = {name: r.double() for name, r in load_rates('small').items()}
    train = [
        ([image], [target]) for images, targets in train for image, target in zip(images, targets)
    ]
    task = model, start, rates, [train[t % 4] for t in range(steps)], ([later], [as_target(mask)])
    both(task, 1e-10, 2, clip=clip, step_weights=step_weights)


@pytest.mark.parametrize('step_weights', [{9: 1.0}, {3: 0.5, 9: 0.5}, {}])
@pytest.mark.parametrize('method', METHODS)
def test_step_weights_after_the_last_step_are_refused(method, step_weights):
    with pytest.raises(ValueError, match='at most 3 inner steps, got'):
        method(Toy(), {}, {}, [None] * 3, None, step_weights=step_weights)


def test_an_unknown_order_is_refused():
    with pytest.raises(KeyError, match='3'):
        meta_gradient(*setting(), order=3)


# ---- memory


def most_bytes(task, steps, **options):
    "The most bytes that the tensors of a meta-gradient hold at once; all steps see one batch."
    model, start, rates, train, test = task
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        meta_gradient(model, start, rates, train[:1] * steps, test, key=KEY, **options)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == '[memory]']
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def bytes_of(weights):
    return sum(w.nbytes for w in weights.values())


@pytest.mark.parametrize('clip', [None, STRONG])
def test_memory_grows_by_the_copies_of_the_weights_and_by_nothing_else(clip):
    task = setting()
    few, many = (most_bytes(task, steps, clip=clip, order=2) for steps in (5, 50))
    assert many - few == 45 * bytes_of(task[1])
    few, many = (most_bytes(task, steps, clip=clip, order=1) for steps in (5, 50))
    assert many == few


def test_memory_of_frozen_weights_is_not_copied():
    task = setting()
    task[0].net[0].weight.requires_grad_(False)
    few, many = (most_bytes(task, steps, order=2) for steps in (5, 10))
    assert many - few == 5 * bytes_of({n: w for n, w in task[1].items() if n != 'net.0.weight'})


def test_memory_of_the_small_model(tiny):
    most_bytes(tiny, 1, order=2)  # what is kept from call to call is there from now on
    few, many = (most_bytes(tiny, steps, order=2) for steps in (1, 2))
    assert many - few == bytes_of(tiny[1])
