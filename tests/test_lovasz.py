"""Laws of the Lovász losses, on inputs that nobody chose by hand."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from eosvos.lovasz import lovasz_hinge, lovasz_softmax, lovasz_weights


def law(*strategies):
    "A property that holds for all that the strategies draw; 60 draws, of any duration."
    return lambda test: settings(deadline=None, max_examples=60)(given(*strategies)(test))


def draw(seed, rois, pixels, soft):
    "Logits and targets in float64; a third of the targets is fractional where `soft`."
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rois, pixels, generator=random, dtype=torch.float64)
    targets = torch.rand(rois, pixels, generator=random, dtype=torch.float64)
    return logits, (1.5 * targets - 0.25).clamp(0, 1) if soft else (targets < 0.4).double()


def area(errors, truth):
    "The definition: the area under |{m > t}| / |y ∪ {m > t}| over all thresholds t."
    edges = torch.cat([errors.new_zeros(1), errors.detach().unique()])
    total = errors.sum() * 0
    for low, high in zip(edges, edges[1:]):
        mistakes = (errors.detach() >= high).to(truth)
        total = total + (high - low) * mistakes.sum() / (
            truth.sum() + (mistakes * (1 - truth)).sum()
        )
    return total


def iou(logits, targets):
    "Of hard masks, (R,); two empty masks agree."
    predicted, truth = logits > 0, targets > 0
    union = (predicted | truth).sum(1)
    return torch.where(union > 0, (predicted & truth).sum(1) / union.clamp(min=1), 1.0).double()


samples = st.builds(
    draw, st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 40), st.booleans()
)
hard_samples = st.builds(
    draw, st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 40), st.just(False)
)


@law(samples)
def test_is_the_area_under_the_staircase(sample):
    logits, targets = sample
    errors = (1 - logits * (2 * targets - 1)).relu()
    expected = torch.stack([area(e, y) for e, y in zip(errors, targets)]).mean()
    assert_close(lovasz_hinge(logits, targets), expected)


@law(samples)
def test_ties_change_nothing(sample):
    logits, targets = (2 * sample[0]).round() / 2, (4 * sample[1]).round() / 4
    errors = (1 - logits * (2 * targets - 1)).relu()
    expected = torch.stack([area(e, y) for e, y in zip(errors, targets)]).mean()
    assert_close(lovasz_hinge(logits, targets), expected)
    assert_close(lovasz_hinge(logits.flip(1), targets.flip(1)), expected)


@law(samples, st.integers(0, 1000))
def test_order_of_pixels_and_of_rois_is_free(sample, seed):
    logits, targets = sample
    random = torch.Generator().manual_seed(seed)
    rois, pixels = (torch.randperm(n, generator=random) for n in logits.shape)
    assert_close(
        lovasz_hinge(logits[rois][:, pixels], targets[rois][:, pixels]),
        lovasz_hinge(logits, targets),
    )


@law(samples)
def test_batch_is_the_mean_of_its_rois(sample):
    logits, targets = sample
    single = torch.stack([lovasz_hinge(z[None], y[None]) for z, y in zip(logits, targets)])
    assert_close(lovasz_hinge(logits, targets), single.mean())


@law(hard_samples)
def test_bounds_one_minus_iou_and_meets_it(sample):
    logits, targets = sample
    assert lovasz_hinge(logits, targets) >= (1 - iou(logits, targets)).mean() - 1e-9
    assert_close(lovasz_hinge(logits.sign(), targets), 2 * (1 - iou(logits, targets)).mean())
    assert lovasz_hinge(2 * targets - 1, targets) == 0


@law(samples, st.integers(0, 1000), st.floats(0, 1))
def test_is_convex_in_the_logits(sample, seed, share):
    logits, targets = sample
    other = 2 * torch.randn(
        logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    chord = share * lovasz_hinge(logits, targets) + (1 - share) * lovasz_hinge(other, targets)
    assert lovasz_hinge(share * logits + (1 - share) * other, targets) <= chord + 1e-9


@law(samples, st.integers(0, 1000))
def test_ignored_pixels_might_as_well_be_missing(sample, seed):
    logits, targets = sample
    valid = torch.rand(logits.shape[1], generator=torch.Generator().manual_seed(seed)) < 0.6
    loss = lovasz_hinge(logits, targets, valid.expand_as(logits))
    assert_close(loss, lovasz_hinge(logits[:, valid], targets[:, valid]))
    assert_close(
        lovasz_hinge(logits.where(valid, torch.inf), targets, valid.expand_as(logits)), loss
    )


@law(samples)
def test_gradient_is_the_weights(sample):
    logits, targets = sample
    signs = 2 * targets - 1
    errors = (1 - logits * signs).relu()
    slope = torch.func.grad(lovasz_hinge)(logits, targets)
    assert_close(slope, -signs * (errors > 0) * lovasz_weights(errors, targets) / len(logits))


@law(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 10), st.booleans())
def test_gradient_against_finite_differences(seed, rois, pixels, soft):
    logits, targets = draw(seed, rois, pixels, soft)
    valid = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)) < 0.8
    zero = torch.zeros(rois, 1)  # where the hinge bends
    errors = torch.cat([1 - logits * (2 * targets - 1), zero], 1)
    assume(errors.sort(1)[0].diff(dim=1).min() > 1e-4)  # no ties
    assert torch.autograd.gradcheck(
        lambda z: lovasz_hinge(z, targets, valid), logits.requires_grad_()
    )


@law(samples)
def test_weights_are_positive_and_add_up_to_all_wrong(sample):
    errors, truth = sample[0].abs(), sample[1]
    weights = lovasz_weights(errors, truth)
    assert (weights >= 0).all()
    ones = torch.ones(len(truth), dtype=torch.float64)
    assert_close(weights.sum(1), ones)  # every pixel wrong: 1 - IoU = 1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_summed_in_float32(dtype):
    logits, targets = draw(3, 4, 3136, True)
    logits = logits.to(dtype).requires_grad_()
    loss = lovasz_hinge(logits, targets)
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.dtype == dtype
    assert_close(loss.double(), lovasz_hinge(logits.detach().double(), targets), rtol=1e-5, atol=0)


def test_float32_weights_keep_their_digits():
    random = torch.Generator().manual_seed(4)
    errors = torch.stack(
        [torch.randperm(3136, generator=random) for _ in range(8)]
    ).float()  # no ties
    truth = (torch.rand(errors.shape, generator=random) < 0.1).float()
    assert_close(
        lovasz_weights(errors, truth).double(),
        lovasz_weights(errors.double(), truth.double()),
        rtol=1e-6,
        atol=0,
    )


def test_empty_inputs_give_a_zero_with_a_gradient():
    for shape in ((0, 56, 56), (0, 3136)):
        logits = torch.zeros(shape, requires_grad=True)
        loss = lovasz_hinge(logits, torch.zeros(shape))
        loss.backward()
        assert loss == 0 and logits.grad.shape == shape
    probabilities = torch.zeros(0, 3, 8, 8, requires_grad=True)
    lovasz_softmax(probabilities, torch.zeros(0, 8, 8, dtype=torch.long)).backward()
    assert probabilities.grad.shape == (0, 3, 8, 8)


def test_all_ignored_gives_zero_loss_and_gradient():
    logits, valid = torch.randn(2, 9, requires_grad=True), torch.zeros(2, 9, dtype=torch.bool)
    loss = lovasz_hinge(logits, torch.ones(2, 9), valid)
    assert loss == 0 and not torch.autograd.grad(loss, logits)[0].any()
    probabilities = torch.rand(2, 3, 9, requires_grad=True)
    loss = lovasz_softmax(probabilities, torch.full((2, 9), 255), valid)
    assert loss == 0 and not torch.autograd.grad(loss, probabilities)[0].any()


def test_bool_targets_and_maps_are_taken():
    logits, targets = draw(5, 3, 20, False)
    assert_close(
        lovasz_hinge(logits.view(3, 4, 5), targets.bool().view(3, 4, 5)),
        lovasz_hinge(logits, targets),
    )


def test_not_a_number_is_not_hidden():
    logits, targets = draw(6, 2, 10, False)
    logits[1, 3] = torch.nan
    assert lovasz_hinge(logits, targets).isnan()


@law(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4), st.integers(1, 30))
def test_softmax_of_hard_predictions_is_one_minus_iou(seed, rois, classes, pixels):
    random = torch.Generator().manual_seed(seed)
    guess, labels = torch.randint(0, classes, (2, rois, pixels), generator=random)
    one_hot = lambda x: torch.nn.functional.one_hot(x, classes).transpose(1, 2).double()
    expected = []
    for g, y in zip(one_hot(guess), one_hot(labels)):
        present = y.any(1)
        expected.append((1 - iou(g, y))[present].mean())
    assert_close(lovasz_softmax(one_hot(guess), labels), torch.stack(expected).mean())


@law(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 4), st.integers(1, 30))
def test_softmax_is_the_area_under_the_staircase(seed, rois, classes, pixels):
    random = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(
        rois, classes, pixels, generator=random, dtype=torch.float64
    ).softmax(1)
    labels = torch.randint(0, classes, (rois, pixels), generator=random)
    valid = torch.rand(rois, pixels, generator=random) < 0.8
    expected = []
    for p, y, v in zip(probabilities, labels, valid):
        losses = [
            area((p[c] - (y == c).double()).abs()[v], (y == c).double()[v]) for c in y[v].unique()
        ]
        expected.append(
            torch.stack(losses).mean() if losses else torch.zeros((), dtype=torch.float64)
        )
    assert_close(
        lovasz_softmax(probabilities, labels.where(valid, 255), valid), torch.stack(expected).mean()
    )


@pytest.mark.parametrize(
    'call, words',
    [
        (
            lambda: lovasz_hinge(torch.zeros(2, 9), torch.zeros(2, 8)),
            r'expected targets of shape \(2, 9\), got \(2, 8\)',
        ),
        (
            lambda: lovasz_hinge(torch.zeros(2, 9), torch.zeros(2, 9), torch.ones(9) > 0),
            r'expected valid of shape \(2, 9\), got \(9,\)',
        ),
        (lambda: lovasz_hinge(torch.zeros(2, 9), torch.zeros(2, 9, requires_grad=True)), 'swapped'),
        (
            lambda: lovasz_softmax(torch.zeros(2, 3, 9), torch.zeros(2, 3, 9)),
            r'expected labels of shape \(2, 9\), got \(2, 3, 9\)',
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
