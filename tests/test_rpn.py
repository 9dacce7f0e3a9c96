"Region proposals: laws, and parity with torchvision on random inputs."

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import anchor_utils, rpn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList

from eosvos.boxes import box_iou
from eosvos.core import generator
from eosvos.rpn import RPN, RPNConfig, RPNHead, anchor_grid, match, propose, rpn_loss, sample

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10**6)
CPU = torch.device('cpu')
IMAGE, SIZES = (128, 192), [(128, 180), (100, 192)]  # padded, and without padding
STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)
BETWEEN, BACKGROUND = -2, -1  # as `match` and torchvision say it


def random_boxes(count, draws, dtype=torch.float64):
    "Boxes (count, 4) inside an image of 100 x 180, at least two pixels wide and high."
    corner = torch.rand(count, 2, generator=draws, dtype=dtype) * torch.tensor([150, 70])
    return torch.cat(
        [corner, corner + 2 + torch.rand(count, 2, generator=draws, dtype=dtype) * 28], 1
    )


def random_features(draws, channels=4, images=2, dtype=torch.float64):
    H, W = IMAGE
    return [
        torch.randn(images, channels, H // s, W // s, generator=draws, dtype=dtype) for s in STRIDES
    ]


def network(seed=0, scale=20, channels=4, **changes):
    "A network whose answers differ clearly from anchor to anchor."
    torch.manual_seed(seed)
    model = RPN(channels, replace(RPNConfig(), **changes)).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.mul_(3 if 'bbox' in name else scale)
    return model


# ---- anchors

side = st.integers(4, 300).map(float)


@quick
@given(
    st.lists(side, min_size=1, max_size=3).map(tuple),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([4, 16, 64]),
)
def test_anchors_are_torchvisions(sizes, shape, stride):
    image = (shape[0] * stride, shape[1] * stride)
    ours = anchor_grid(shape, image, sizes, CPU)
    assert torch.equal(ours, peer_anchors(shape, image, sizes))
    assert len(ours) == shape[0] * shape[1] * len(sizes) * 3


def peer_anchors(shape, image, sizes):
    blank = ImageList(torch.zeros(1, 3, *image), [image])
    peer = anchor_utils.AnchorGenerator((sizes,), (RATIOS,))
    return peer(blank, [torch.zeros(1, 1, *shape)])[0]


def test_anchors_of_maps_that_do_not_divide_the_image():
    "The stride is then rounded down, as torchvision does."
    case = (23, 40), (360, 640), (64.0,)
    assert torch.equal(anchor_grid(*case, CPU), peer_anchors(*case))


def test_ratio_is_height_over_width():
    flat, square, high = anchor_grid((1, 1), (1, 1), (100.0,), CPU)[:, 2:].tolist()
    assert flat == [71, 35] and square == [50, 50] and high == [35, 71]


def test_pyramid_anchors_follow_the_features():
    features = random_features(generator(0))
    levels = RPN(4).anchors(features, IMAGE)
    assert [len(level) for level in levels] == [x.shape[2] * x.shape[3] * 3 for x in features]
    assert all(level.dtype == torch.float64 for level in levels)
    with pytest.raises(ValueError, match='zip'):
        RPN(4).anchors(features[1:], IMAGE)


def test_anchors_are_exact_whatever_the_features_are():
    "In bfloat16, with eight bits, an anchor at 768 x 1344 would move by up to four pixels."
    features = [torch.zeros(1, 1, 768 // s, 1344 // s) for s in STRIDES]
    levels = RPN(1).anchors(features, (768, 1344))
    assert max((level - level.bfloat16()).abs().max() for level in levels) == 4
    for half in (torch.bfloat16, torch.float16):
        rough = RPN(1).anchors([x.to(half) for x in features], (768, 1344))
        for a, b in zip(levels, rough, strict=True):
            assert b.dtype == torch.float32 and torch.equal(a, b)


def test_cached_anchors_survive_a_step():
    model, draws = network(), generator('cache')
    features, targets = random_features(draws), [dict(boxes=random_boxes(2, draws)) for _ in SIZES]
    before = [level.clone() for level in model.anchors(features, IMAGE)]
    proposals, losses = model(features, SIZES, IMAGE, targets, generator=draws)
    sum(losses.values()).backward()
    for p in proposals:
        p.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, model.anchors(features, IMAGE)))


# ---- matcher


@quick
@given(
    seeds,
    st.integers(1, 5),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.6, 0.3)]),
)
def test_match_is_torchvisions(seed, objects, boxes, keep, thresholds):
    iou = torch.rand(objects, boxes, generator=generator(seed), dtype=torch.float64)
    iou = (iou * 10).round() / 10  # with ties
    result = match(iou, *thresholds, keep)
    assert torch.equal(result, Matcher(*thresholds, allow_low_quality_matches=keep)(iou))
    assert result.dtype == torch.int64 and result.min() >= BETWEEN and result.max() < objects


@quick
@given(seeds)
def test_match_follows_a_permutation(seed):
    draws = generator(seed)
    iou = torch.rand(3, 20, generator=draws)
    order = torch.randperm(20, generator=draws)
    assert torch.equal(match(iou[:, order], 0.7, 0.3, True), match(iou, 0.7, 0.3, True)[order])


@quick
@given(seeds, st.integers(1, 4))
def test_every_object_gets_an_anchor_unless_another_takes_it(seed, objects):
    iou = torch.rand(objects, 30, generator=generator(seed)) * 0.5
    result, best = match(iou, 0.7, 0.3, True), iou.argmax(1)
    assert (result[best] == iou[:, best].argmax(0)).all()


def test_match_of_nothing():
    assert match(torch.zeros(0, 7), 0.7, 0.3, True).tolist() == [BACKGROUND] * 7
    assert match(torch.zeros(3, 0), 0.5, 0.5, False).shape == (0,)
    assert match(torch.zeros(0, 0), 0.5, 0.5, False).shape == (0,)


# ---- sampler


@quick
@given(
    seeds,
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 9),
    st.integers(0, 50),
    st.sampled_from([0, 0.25, 0.5, 1]),
)
def test_sample_is_balanced(seed, objects, background, left_out, count, share):
    labels = torch.tensor([2] * objects + [0] * background + [-1] * left_out)
    labels = labels[torch.randperm(len(labels), generator=generator(seed))]
    chosen = sample(labels, count, share, generator(seed, 'draw'))
    found = (labels[chosen] > 0).sum()
    assert found == min(objects, int(count * share))
    assert (labels[chosen] == 0).sum() == min(background, count - found)
    assert torch.equal(chosen, chosen.unique())  # sorted, none twice
    assert (labels[chosen] >= 0).all()
    assert torch.equal(chosen, sample(labels, count, share, generator(seed, 'draw')))


def test_every_anchor_has_its_turn():
    labels = torch.tensor([1] * 4 + [0] * 12)
    draws = generator('turns')
    times = torch.bincount(
        torch.cat([sample(labels, 4, 0.5, draws) for _ in range(600)]), minlength=16
    )
    assert (times[:4] - 300).abs().max() < 60 and (times[4:] - 100).abs().max() < 50


# ---- head


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 5))
def test_head_is_torchvisions(seed, channels, anchors):
    torch.manual_seed(seed)
    ours, peer = RPNHead(channels, anchors).double(), rpn.RPNHead(channels, anchors).double()
    peer.load_state_dict(ours.state_dict())
    features = random_features(generator(seed), channels)
    expected = rpn.concat_box_prediction_layers(*peer(features))
    logits, deltas = (torch.cat(x, 1) for x in ours(features))
    torch.testing.assert_close(logits.flatten(), expected[0].flatten(), rtol=0, atol=1e-12)
    torch.testing.assert_close(deltas.reshape(-1, 4), expected[1], rtol=0, atol=1e-12)


# ---- proposals


@quick
@given(seeds, st.booleans())
def test_proposals(seed, training):
    draws = generator(seed)
    config = RPNConfig(before_nms=(60, 40), after_nms=(30, 20))
    anchors = RPN(4).anchors(random_features(draws), IMAGE)
    logits = [torch.randn(len(a), generator=draws, dtype=torch.float64) for a in anchors]
    deltas = [torch.randn(len(a), 4, generator=draws, dtype=torch.float64) * 3 for a in anchors]
    boxes = propose(logits, deltas, anchors, (100, 180), config, training)
    assert 0 < len(boxes) <= (30 if training else 20)
    assert (boxes >= 0).all() and (boxes <= torch.tensor([180, 100, 180, 100])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_no_two_proposals_of_a_level_are_alike():
    draws = generator('alike')
    anchors = anchor_grid((8, 8), (128, 128), (64.0,), CPU)
    logits = torch.randn(len(anchors), generator=draws)
    deltas = torch.randn(len(anchors), 4, generator=draws) / 4
    boxes = propose([logits], [deltas], [anchors], (128, 128), RPNConfig(), False)
    assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.7
    assert len(boxes) < len(anchors)


def test_wild_deltas_give_finite_proposals():
    anchors = anchor_grid((4, 4), (64, 64), (32.0,), CPU)
    for value in (1e4, -1e4):
        logits, deltas = torch.zeros(48), torch.full((48, 4), value)
        boxes = propose([logits], [deltas], [anchors], (64, 64), RPNConfig(), True)
        assert boxes.isfinite().all()


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_answers_in_half_precision_meet_anchors_in_float32(half):
    "Proposals, scores and losses are those of the same numbers in float32."
    draws = generator('half')
    features = random_features(draws, dtype=torch.float32)
    anchors = RPN(4).anchors([x.to(half) for x in features], IMAGE)
    logits = [(3 * torch.randn(1, len(a), generator=draws)).to(half) for a in anchors]
    deltas = [torch.randn(1, len(a), 4, generator=draws).to(half) for a in anchors]
    target = [dict(boxes=random_boxes(2, draws, torch.float32))]

    def answers(logits, deltas):
        first = [o[0] for o in logits], [o[0] for o in deltas]
        every = torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)
        losses = rpn_loss(*every, target, RPNConfig(), generator(0))
        return [propose(*first, anchors, (100, 180), RPNConfig(), True), *losses.values()]

    exact = answers([o.float() for o in logits], [o.float() for o in deltas])
    for a, b in zip(answers(logits, deltas), exact, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


def test_proposals_of_a_batch_are_those_of_its_images():
    model, features = network(), random_features(generator('batch'))
    together, _ = model(features, SIZES, IMAGE)
    for b, size in enumerate(SIZES):
        (alone,), _ = model([x[b : b + 1] for x in features], [size], IMAGE)
        torch.testing.assert_close(alone, together[b])


# ---- extra boxes


@pytest.mark.parametrize('count', [0, 1, 30, 50, 70])
def test_extra_boxes_share_the_budget(count):
    model = network(before_nms=(100, 100), after_nms=(80, 50))
    features, boxes = random_features(generator('given')), random_boxes(count, generator('boxes'))
    plain, _ = model(features, SIZES, IMAGE)
    extended, losses = model(features, SIZES, IMAGE, extra_boxes=[boxes, boxes[:0]])
    assert losses == {} and [len(p) for p in plain] == [50, 50]
    assert len(extended[0]) == max(50, count)
    kept = max(50 - count, 0)
    assert torch.equal(extended[0], torch.cat([plain[0][:kept], boxes]))
    assert torch.equal(extended[1], plain[1])


# ---- the whole network beside torchvision's


def peer_of(model):
    "torchvision's network with our weights, and our sampler with the key 'peer'."
    c = model.config
    budgets = [dict(training=o[0], testing=o[1]) for o in (c.before_nms, c.after_nms)]
    anchors = anchor_utils.AnchorGenerator(c.sizes, (RATIOS,) * len(c.sizes))
    thresholds = c.foreground_iou, 0.3, c.samples, 0.5
    peer = rpn.RegionProposalNetwork(anchors, rpn.RPNHead(4, 3), *thresholds, *budgets, 0.7)
    peer.double().load_state_dict(model.state_dict())
    draws = generator('peer')

    def same_samples(labels):
        objects, background = [], []
        for o in labels:
            chosen = torch.zeros_like(o).index_fill(0, sample(o, c.samples, 0.5, draws), 1)
            objects.append(chosen * (o > 0))
            background.append(chosen * (o == 0))
        return objects, background

    peer.fg_bg_sampler = same_samples
    return peer


def peer_losses(peer, images, features, targets):
    "torchvision's losses, with labels in double precision; its own `forward` rounds them."
    logits, deltas = rpn.concat_box_prediction_layers(*peer.head(features))
    anchors = peer.anchor_generator(images, features)
    labels, boxes = peer.assign_targets_to_anchors(anchors, targets)
    target_deltas = peer.box_coder.encode([o.double() for o in boxes], anchors)
    return peer.compute_loss(logits, deltas, [o.double() for o in labels], target_deltas)


@settings(max_examples=8, deadline=None)
@given(seeds, st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_losses_and_gradients_are_torchvisions(seed, counts):
    draws = generator(seed)
    model, features = network(seed, beta=1 / 9), random_features(draws)
    peer, images = peer_of(model), ImageList(torch.zeros(2, 3, *IMAGE, dtype=torch.float64), SIZES)
    targets = [dict(boxes=random_boxes(count, draws)) for count in counts]
    proposals, losses = model(features, SIZES, IMAGE, targets, generator=generator('peer'))
    expected = peer_losses(peer, images, features, targets)
    for value, other in zip(losses.values(), expected):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=0)
    ours, theirs = (
        torch.autograd.grad(sum(o), list(m.parameters()))
        for o, m in ((losses.values(), model), (expected, peer))
    )
    for a, b in zip(ours, theirs):
        assert (a - b).norm() <= 1e-8 * b.norm()
    for a, b in zip(proposals, peer(images, dict(enumerate(features)), targets)[0]):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_proposals_are_torchvisions(seed):
    model = network(seed, before_nms=(200, 100), after_nms=(150, 80))
    features = random_features(generator(seed))
    images = ImageList(torch.zeros(2, 3, *IMAGE, dtype=torch.float64), SIZES)
    expected, _ = peer_of(model).eval()(images, dict(enumerate(features)))
    for a, b in zip(model(features, SIZES, IMAGE)[0], expected):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


# ---- losses


def test_beta_zero_is_the_absolute_error():
    anchors = anchor_grid((4, 4), (64, 64), (32.0,), CPU).double()[1::3]  # the square ones
    deltas = torch.randn(1, 16, 4, generator=generator('beta'), dtype=torch.float64)
    target = [dict(boxes=anchors[5:6])]  # its deltas are 0, so the error is the delta itself
    logits = torch.zeros(1, 16, dtype=torch.float64)
    losses = rpn_loss(logits, deltas, anchors, target, RPNConfig(), generator(0))
    found = match(box_iou(target[0]['boxes'], anchors), 0.7, 0.3, True)
    assert (found >= 0).sum() == 1
    torch.testing.assert_close(
        losses['loss_rpn_box_reg'], deltas[0, 5].abs().sum() / (found != BETWEEN).sum()
    )


def test_images_without_objects():
    model, features = network(), random_features(generator('empty'))
    targets = [dict(boxes=torch.zeros(0, 4, dtype=torch.float64)) for _ in SIZES]
    _, losses = model(features, SIZES, IMAGE, targets, generator=generator(0))
    assert losses['loss_rpn_box_reg'] == 0 and losses['loss_objectness'] > 0
    sum(losses.values()).backward()
    assert not model.head.bbox_pred.weight.grad.any()
    assert model.head.cls_logits.weight.grad.any()


def test_losses_can_be_differentiated_twice():
    model, draws = network(scale=1), generator('twice')
    features, targets = random_features(draws), [dict(boxes=random_boxes(2, draws)) for _ in SIZES]
    _, losses = model(features, SIZES, IMAGE, targets, generator=draws)
    parameters = list(model.parameters())
    first = torch.autograd.grad(sum(losses.values()), parameters, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), parameters)
    assert all(g.isfinite().all() for g in second) and any(g.any() for g in second)


def test_same_key_same_losses():
    model, draws = network(samples=16), generator('key')
    features, targets = random_features(draws), [dict(boxes=random_boxes(2, draws)) for _ in SIZES]
    losses = [
        model(features, SIZES, IMAGE, targets, generator=generator(key))[1][
            'loss_objectness'
        ].item()
        for key in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]
