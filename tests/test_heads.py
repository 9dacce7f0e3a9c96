"Box head, mask head and their joints against torchvision's, on small and odd inputs."

import copy
import json
from dataclasses import replace
from unittest import mock

import pytest
import torch
from dacite import DaciteError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import roi_heads as peer
from torchvision.ops import MultiScaleRoIAlign

from eosvos.box_head import box_loss, detect
from eosvos.boxes import box_iou
from eosvos.core import demo_frame, generator, masks_to_boxes
from eosvos.lovasz import lovasz_hinge, lovasz_softmax
from eosvos.mask_head import mask_loss, paste_masks, project_masks
from eosvos.mask_rcnn import (
    ImageConfig,
    MaskRCNN,
    ModelConfig,
    RoIConfig,
    check_targets,
    choose_rois,
    roi_targets,
    scale_boxes,
    scale_target,
)
from eosvos.rpn import RPN
from eosvos.weights import SHIPPED, _read_config, load_model, read_weights

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
KINDS = ['hinge', 'softmax', 'bce']


def random_boxes(draws, count, height=80, width=100):
    "Boxes (count, 4), some of them partly outside or thinner than a pixel."
    centre = (torch.rand(count, 2, generator=draws) * 1.2 - 0.1) * torch.tensor([width, height])
    half = 2 ** (torch.rand(count, 2, generator=draws) * 8 - 2)
    return torch.cat([centre - half, centre + half], 1)


def peers(score=0.2, count=7, samples=16):
    "Torchvision's RoIHeads without networks."
    return peer.RoIHeads(
        None, None, None, 0.5, 0.5, samples, 0.25, (10.0, 10.0, 5.0, 5.0), score, 0.5, count
    )


# ---- detections


@quick
@given(
    seeds,
    st.integers(0, 30),
    st.integers(2, 4),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_detections_are_torchvisions(seed, N, K, count, score):
    "Clipped, above the threshold, large enough, no duplicates, no more than asked for."
    draws = generator(seed)
    proposals = random_boxes(draws, N)
    logits, deltas = 2 * torch.randn(N, K, generator=draws), torch.randn(N, K, 4, generator=draws)
    theirs = peers(score, count).postprocess_detections(
        logits, deltas.flatten(1), [proposals], [(80, 100)]
    )
    ours = detect(logits, deltas, proposals, (80, 100), score, count)
    for name, (expected,) in zip(('boxes', 'scores', 'labels'), theirs, strict=True):
        torch.testing.assert_close(ours[name], expected)


def test_a_score_at_the_threshold_is_dropped():
    "As in torchvision; two equal logits make a score of exactly one half."
    boxes = torch.tensor([[5.0, 5, 20, 20], [40, 40, 60, 70]])
    logits = torch.tensor([[0.0, 0], [0, 1e-3]])
    found = detect(logits, torch.zeros(2, 2, 4), boxes, (80, 100), 0.5, 10)
    assert found['boxes'].tolist() == [boxes[1].tolist()]


def test_a_box_that_is_outside_or_too_thin_is_no_detection():
    boxes = torch.tensor(
        [[-30.0, 5, -10, 20], [40, 40, 40.005, 70], [5, 5, 20, 20], [40, 40, 40.02, 70]]
    )
    logits = torch.tensor([0.0, 5]).expand(4, 2)
    found = detect(logits, torch.zeros(4, 2, 4), boxes, (80, 100), 0.5, 10)
    assert sorted(found['boxes'][:, 0].tolist()) == [5, 40]


@quick
@given(seeds, st.integers(1, 30), st.integers(2, 4))
def test_box_loss_is_torchvisions(seed, N, K):
    draws = generator(seed)
    logits, deltas = torch.randn(N, K, generator=draws), torch.randn(N, K, 4, generator=draws)
    labels, target_deltas = (
        torch.randint(K, (N,), generator=draws),
        torch.randn(N, 4, generator=draws),
    )
    ours = box_loss(logits, deltas, labels, target_deltas, beta=1 / 9)
    theirs = peer.fastrcnn_loss(logits, deltas.flatten(1), [labels], [target_deltas])
    torch.testing.assert_close(tuple(ours.values()), theirs)


def test_answers_in_half_precision_meet_boxes_in_float32():
    "Detections and losses are those of the same numbers in float32."
    draws = generator('half')
    proposals = random_boxes(draws, 20) + torch.tensor([1000.0, 500, 1000, 500])
    logits = torch.randn(20, 2, generator=draws).bfloat16()
    deltas = torch.randn(20, 2, 4, generator=draws).bfloat16()
    labels, target_deltas = (
        torch.randint(2, (20,), generator=draws),
        torch.randn(20, 4, generator=draws),
    )
    masks = torch.randn(20, 8, 8, generator=draws).bfloat16()
    shares = torch.rand(20, 8, 8, generator=draws)

    def answers(logits, deltas, masks):
        found = detect(logits, deltas, proposals, (800, 1300), 0.3, 10)
        return [
            found['boxes'],
            found['scores'],
            *box_loss(logits, deltas, labels, target_deltas).values(),
            *(mask_loss(masks, shares, kind) for kind in KINDS),
        ]

    exact = answers(logits.float(), deltas.float(), masks.float())
    assert len(exact[0]) == 10
    for a, b in zip(answers(logits, deltas, masks), exact, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


# ---- masks


@quick
@given(seeds, st.integers(0, 6), st.integers(2, 9), st.sampled_from([torch.float32, torch.float64]))
def test_pasting_is_torchvisions(seed, N, M, dtype):
    draws = generator(seed)
    boxes = random_boxes(draws, N).to(dtype)
    inside = (boxes[:, :2] < torch.tensor([99, 79])) & (boxes[:, 2:] > 1)
    boxes = boxes[inside.all(1)]  # where nothing is inside, torchvision fails
    masks = torch.rand(len(boxes), M, M, generator=draws).to(dtype)
    theirs = (
        peer.paste_masks_in_image(masks[:, None], boxes, (80, 100))[:, 0]
        if len(boxes)
        else masks.new_zeros(0, 80, 100)
    )
    torch.testing.assert_close(paste_masks(masks, boxes, (80, 100)), theirs)


@quick
@given(seeds, st.integers(1, 8), st.integers(1, 9))
def test_projection_is_torchvisions(seed, N, M):
    draws = generator(seed)
    masks = (torch.rand(3, 80, 100, generator=draws) > 0.5).float()
    boxes, owner = random_boxes(draws, N), torch.randint(3, (N,), generator=draws)
    torch.testing.assert_close(
        project_masks(masks, boxes, owner, M), peer.project_masks_on_boxes(masks, boxes, owner, M)
    )


@pytest.mark.parametrize('kind', KINDS)
def test_no_mask_costs_nothing_and_has_a_gradient(kind):
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, 4, 4), kind)
    assert loss == 0 and torch.autograd.grad(loss, logits)[0].shape == (0, 4, 4)


def test_the_kinds_are_what_they_are_called():
    draws = generator('kinds')
    logits, shares = torch.randn(5, 8, 8, generator=draws), torch.rand(5, 8, 8, generator=draws)
    both = torch.stack([torch.zeros_like(logits), logits], dim=1)  # of background and object
    wanted = dict(
        hinge=lovasz_hinge(logits, shares),
        softmax=lovasz_softmax(both.softmax(1), (shares > 0.5).long()),
        bce=nn.functional.binary_cross_entropy_with_logits(logits, shares),
    )
    for kind, value in wanted.items():
        torch.testing.assert_close(mask_loss(logits, shares, kind), value)
    assert torch.equal(mask_loss(logits, shares), wanted['hinge'])
    assert len({o.item() for o in wanted.values()}) == 3


def test_an_unknown_kind_is_refused():
    said = r"expected one of \['bce', 'hinge', 'softmax'\], got 'dice'"
    with pytest.raises(ValueError, match=said):
        RoIConfig(mask_loss='dice')


def test_weights_of_earlier_versions_call_the_hinge_lovasz(tmp_path):
    assert RoIConfig().mask_loss == RoIConfig(mask_loss='lovasz').mask_loss == 'hinge'
    tensors, about = read_weights(SHIPPED['small'])
    about['config']['roi']['mask_loss'] = 'lovasz'
    save_file(tensors, tmp_path / 'old.safetensors', metadata=dict(eosvos=json.dumps(about)))
    model, config = load_model(tmp_path / 'old.safetensors')
    assert config.roi.mask_loss == model.roi_heads.config.mask_loss == 'hinge'


@pytest.mark.parametrize(
    'part, name, built_in, other',
    [
        ('image', 'multiple', 32, 64),
        ('rpn', 'ratios', [0.5, 1.0, 2.0], [1.0]),
        ('rpn', 'nms_iou', 0.7, 0.5),
        ('roi', 'nms_iou', 0.5, 0.7),
        ('roi', 'mask_layers', 4, 2),
        ('roi', 'align', 'fast', 'twice'),
    ],
)
def test_a_field_of_earlier_versions_may_only_say_what_is_built_in(part, name, built_in, other):
    assert _read_config({part: {name: built_in}}) == ModelConfig()
    with pytest.raises(DaciteError, match=f'"{name}"'):
        _read_config({part: {name: other}})
    with pytest.raises(DaciteError, match='"norm"'):
        _read_config(dict(norm='frozen'))


# ---- unknown pixels


def random_masks(count, key):
    "Logits, shares, and which cells are known, each (count, 8, 8)."
    draws = generator(key)
    logits = 2 * torch.randn(count, 8, 8, generator=draws)
    shares, chance = torch.rand(2, count, 8, 8, generator=draws)
    return logits, shares, chance < 0.7


@pytest.mark.parametrize('kind', KINDS)
def test_unknown_cells_teach_nothing(kind):
    "Their gradient is exactly 0, and neither their logits nor their targets change the loss."
    logits, shares, valid = random_masks(4, 'void')
    logits.requires_grad_()
    loss = mask_loss(logits, shares, kind, valid)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert (gradient[~valid] == 0).all() and gradient[valid].any()
    assert loss != mask_loss(logits, shares, kind)
    other = mask_loss(logits.where(valid, 1e4), shares.where(valid, 1 - shares), kind, valid)
    assert torch.equal(other, loss)


@pytest.mark.parametrize('kind', KINDS)
def test_a_mask_without_a_known_cell_adds_nothing(kind):
    logits, shares, valid = random_masks(3, 'blank')
    valid[1] = False
    logits.requires_grad_()
    loss = mask_loss(logits, shares, kind, valid)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert not gradient[1].any() and gradient[0].any() and gradient.isfinite().all()
    others = [mask_loss(logits[[k]], shares[[k]], kind, valid[[k]]) for k in (0, 2)]
    count = valid.sum((1, 2)) if kind == 'bce' else [1, 1, 1]  # a mean over cells, or over masks
    torch.testing.assert_close(loss, (others[0] * count[0] + others[1] * count[2]) / sum(count))
    nothing = mask_loss(logits, shares, kind, torch.zeros_like(valid))
    assert nothing == 0 and (torch.autograd.grad(nothing, logits)[0] == 0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_where_all_is_known_the_loss_is_the_same(kind):
    logits, shares, valid = random_masks(3, 'known')
    loss = mask_loss(logits, shares, kind, torch.ones_like(valid))
    torch.testing.assert_close(loss, mask_loss(logits, shares, kind))


def test_a_cell_is_unknown_where_most_of_it_is():
    "Four by four pixels a cell; the third box reaches beyond the image, where all is known."
    valid = torch.ones(16, 32, dtype=torch.bool)
    valid[4:8, 4:8] = False  # one cell
    valid[8:12, 8:11] = False  # three quarters of another
    valid[12:, 12:13] = False  # a quarter of a third
    boxes = torch.tensor([[0.0, 0, 16, 16], [16, 0, 32, 16], [24, 0, 40, 16], [0, 0, 16, 16]])
    boxes = boxes - 0.5  # RoIAlign's half pixel
    target = dict(boxes=boxes[:1], labels=torch.tensor([1]), masks=torch.ones(1, 16, 32))
    positive, owners = torch.arange(3), torch.zeros(4, dtype=torch.int64)
    _, masks, known = roi_targets(boxes, owners, positive, target | dict(valid=valid), 4)
    assert known.dtype == torch.bool and known.shape == masks.shape == (3, 4, 4)
    assert (~known).nonzero().tolist() == [[0, 1, 1], [0, 2, 2]]
    _, _, known = roi_targets(boxes, owners, positive, target, 4)
    assert known.shape == (3, 4, 4) and known.all()


def test_unknown_pixels_follow_their_image():
    valid = torch.eye(4, 6) == 0
    target = dict(boxes=torch.tensor([[0.0, 0, 2, 2]]), masks=torch.ones(1, 4, 6), valid=valid)
    scaled = scale_target(target, (4, 6), (8, 12))
    assert torch.equal(scaled['valid'], valid.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize(
    'valid, said',
    [
        (torch.ones(8, 9) > 0, r'target 0: expected valid of shape \(8, 8\), got \(8, 9\)'),
        (torch.ones(8, 8), r'target 0: expected a bool valid, got torch.float32'),
    ],
)
def test_what_is_known_is_checked(valid, said):
    image, box = torch.rand(3, 8, 8), torch.tensor([[1.0, 1, 5, 5]])
    target = dict(boxes=box, labels=torch.tensor([1]), masks=torch.ones(1, 8, 8))
    check_targets([image], [target | dict(valid=torch.ones(8, 8) > 0)])
    with pytest.raises(ValueError, match=said):
        check_targets([image], [target | dict(valid=valid)])


# ---- the choice of RoIs


@quick
@given(seeds, st.integers(0, 40), st.integers(0, 3))
def test_chosen_rois_are_torchvisions(seed, P, G):
    "Boxes, labels and owners; the same permutations are drawn by both."
    draws = generator(seed)
    target = dict(boxes=random_boxes(draws, G), labels=1 + torch.randint(2, (G,), generator=draws))
    proposals = torch.cat(
        [
            random_boxes(draws, P),
            target['boxes'].repeat(3, 1) + torch.randn(3 * G, 4, generator=draws),
        ]
    )

    def shuffled(n, **_):
        return torch.rand(n, generator=generator('shuffled', n)).argsort()

    with mock.patch('torch.randperm', shuffled):
        boxes, labels, owners, positive = choose_rois(proposals, target, RoIConfig(samples=16))
        theirs = peers().select_training_samples(
            [proposals], [target | dict(masks=torch.zeros(G, 8, 8))]
        )
    for ours, (wanted,) in zip((boxes, owners, labels), theirs[:3], strict=True):
        assert torch.equal(ours, wanted)
    assert torch.equal(positive, labels.nonzero()[:, 0])


# ---- the joints


class Shrunk(nn.Module):
    "The frame itself, at five sizes."

    channels = (3, 3, 3, 3)

    def forward(self, x):
        return [nn.functional.avg_pool2d(x, stride) for stride in (4, 8, 16, 32, 64)]


def tiny(classes=2, **changes):
    "A model that looks at the frame itself."
    torch.manual_seed(0)
    roi = RoIConfig(box_width=8, mask_size=4, mask_width=8, score=0, detections=5, **changes)
    image = ImageConfig(min_side=64, max_side=128)
    model = MaskRCNN(Shrunk(), ModelConfig(channels=3, classes=classes, image=image, roi=roi))
    model.backbone = Shrunk()
    return model


def test_each_mask_is_that_of_its_label():
    "With three classes: the logits of its own class, and of no other."
    heads = tiny(classes=3).roi_heads
    features = Shrunk()(torch.rand(1, 3, 64, 128))
    boxes = [torch.tensor([[5.0, 5, 50, 50], [30, 8, 90, 60], [5, 5, 50, 50]])]
    labels = torch.tensor([2, 1, 1])
    pool = MultiScaleRoIAlign(['0', '1', '2', '3'], 4, 2)
    pooled = pool(dict(zip('0123', features[:4])), boxes, [(64, 128)])
    every = heads.mask_predictor(heads.mask_head(pooled))  # (3, 3, 8, 8)
    logits = heads.masks(features, boxes, labels, (64, 128))
    torch.testing.assert_close(logits, torch.stack([every[0, 2], every[1, 1], every[2, 1]]))
    assert not torch.allclose(logits[0], logits[2])


def test_boxes_follow_each_side_on_its_own():
    "An image that becomes twice as high and three times as wide; (10, 20) goes to (30, 40)."
    assert scale_boxes(torch.tensor([[10.0, 20, 11, 22]]), (50, 60), (100, 180)).tolist() == [
        [30, 40, 33, 44]
    ]


def test_extra_boxes_are_in_pixels_of_the_image():
    "The model looks where they are after resizing, in a frame of twice its size."
    model, box = tiny(), torch.tensor([[40.0, 20, 120, 100]])
    seen = []
    model.rpn.register_forward_hook(lambda rpn, inputs, output: seen.append(output[0][0]))
    with torch.no_grad():
        model([torch.rand(3, 128, 256)], extra_boxes=[box])
    assert seen[0][-1].tolist() == (box[0] / 2).tolist()


def test_losses_can_be_differentiated_twice():
    "The slope of the squared gradient, against a difference of two gradients."
    image, mask = torch.rand(3, 64, 128).double(), torch.zeros(1, 64, 128, dtype=torch.uint8)
    mask[:, 10:50, 20:80] = 1
    target = dict(boxes=torch.tensor([[20.0, 10, 80, 50]]), labels=torch.tensor([1]), masks=mask)
    model = tiny(mask_loss='bce').double()
    features = torch.zeros_like(image).requires_grad_()  # added to the frame, which is the feature
    direction = torch.randn(image.shape, generator=generator('direction')).double()
    near = target['boxes'] + torch.tensor([[2.0, 3, -4, 5]])
    model.rpn.config = replace(model.rpn.config, after_nms=(0, 200))

    def slope(shift, **more):
        losses = model([image + shift], [target], [near], generator(0))
        loss = losses['loss_mask'] + losses['loss_classifier']
        return torch.autograd.grad(loss, shift, **more)[0]

    product = torch.autograd.grad((slope(features, create_graph=True) * direction).sum(), features)
    ends = [slope((h * direction).requires_grad_()) for h in (1e-6, -1e-6)]
    torch.testing.assert_close(product[0], (ends[0] - ends[1]) / 2e-6, rtol=1e-3, atol=1e-7)
    assert product[0].any()


@pytest.mark.parametrize('kind', KINDS)
def test_unknown_pixels_change_the_mask_loss_alone(kind):
    "Beside an image without any. If none is, no bit changes; if all are, no mask has a gradient."
    model, images = tiny(mask_loss=kind), [torch.rand(3, 64, 128), torch.rand(3, 48, 100)]
    masks = [torch.zeros(1, *image.shape[1:], dtype=torch.uint8) for image in images]
    for mask in masks:
        mask[:, 10:40, 20:80] = 1
    box = torch.tensor([[20.0, 10, 80, 40]])
    plain = [dict(boxes=box, labels=torch.tensor([1]), masks=mask) for mask in masks]
    known = torch.ones(64, 128, dtype=torch.bool)
    some = known.clone()
    some[:, 50:] = False

    def run(*valids):
        targets = [target | dict(valid=valid) for target, valid in zip(plain, valids)]
        targets += plain[len(valids) :]
        losses = model(images, targets, generator=generator('void'))
        model.zero_grad(set_to_none=False)
        sum(losses.values()).backward()
        return losses, {name: p.grad.clone() for name, p in model.named_parameters()}

    before, slope = run()
    nowhere = torch.zeros(48, 100, dtype=torch.bool)
    for valids in ((known,), (some,), (~known, nowhere)):
        losses, after = run(*valids)
        assert {name for name in before if losses[name] != before[name]} <= {'loss_mask'}
        changed = {name for name in after if not torch.equal(after[name], slope[name])}
        assert all('mask' in name for name in changed)  # the pyramid has no weights
        moved = losses['loss_mask'] != before['loss_mask']
        assert bool(changed) == moved == (valids[0] is not known)
    assert losses['loss_mask'] == 0
    assert all((g == 0).all() for name, g in after.items() if 'mask' in name)


@pytest.mark.parametrize('box', [[5.0, 5, 5, 9], [5.0, 9, 9, 9], [9.0, 5, 5, 9], [5.0, 9, 9, 5]])
def test_a_box_without_area_is_refused(box):
    target = dict(boxes=torch.tensor([box]), labels=torch.tensor([1]), masks=torch.ones(1, 16, 16))
    with pytest.raises(ValueError, match='expected boxes with x1 < x2 and y1 < y2, got'):
        check_targets([torch.rand(3, 16, 16)], [target])


def test_beta_reaches_the_box_loss():
    "0 is L1 in the RPN, 1 smooth L1 in the heads (the paper); other values give other losses."
    mask = torch.zeros(1, 64, 128, dtype=torch.uint8)
    mask[:, 10:50, 20:80] = 1
    target = dict(boxes=torch.tensor([[20.0, 10, 80, 50]]), labels=torch.tensor([1]), masks=mask)
    image, given = torch.rand(3, 64, 128), [torch.tensor([[22.0, 12, 80, 50]])]
    one, other = (
        tiny(beta=beta)([image], [target], given, generator(0))['loss_box_reg']
        for beta in (1.0, 1 / 9)
    )
    assert RoIConfig().beta == 1 and RPN(3).config.beta == 0 and 0 < one < other


# ---- half precision


@pytest.fixture(scope='module')
def cup():
    "A shipped model, in training without own proposals, a frame, its target, and boxes near."
    model = load_model('parent-group')[0]
    model.rpn.config = replace(model.rpn.config, after_nms=(0, 200))
    image, ids = demo_frame()
    masks = (ids == 1)[None]
    target = dict(boxes=masks_to_boxes(masks), labels=torch.tensor([1]), masks=masks)
    near = target['boxes'] + 10 * torch.randn(40, 4, generator=generator('near'))
    return model, image, target, torch.cat([near, near / 3])


@pytest.mark.parametrize('how', ['autocast', 'wholesale'])
def test_half_precision_rounds_features_alone(cup, how):
    "Losses of the same RoIs to the accuracy of bfloat16; boxes and masks in float32."
    model, image, target, given = cup
    model = copy.deepcopy(model)
    with torch.no_grad():
        losses = model([image], [target], [given], generator(0))
        (exact,) = model([image])
        if how == 'wholesale':
            model, image = model.bfloat16(), image.bfloat16()
        else:
            model.precision = 'bf16'
        rough_losses = model([image], [target], [given], generator(0))
        (rough,) = model([image])
    for name, value in rough_losses.items():
        assert value.dtype == torch.float32 and value != losses[name]
        torch.testing.assert_close(value, losses[name], rtol=0.02, atol=5e-4)
    for name in ('boxes', 'scores', 'masks'):
        assert rough[name].dtype == torch.float32
    assert box_iou(exact['boxes'][:1], rough['boxes'][:1]) > 0.97
    exact, rough = (o['masks'][0] > 0.5 for o in (exact, rough))
    assert (exact & rough).sum() / (exact | rough).sum() > 0.97


def test_the_precision_is_the_models_own(cup, monkeypatch):
    "Short products only where they are asked for, whatever surrounds the call."
    model, image, target, given = cup
    model, before = copy.deepcopy(model), torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', before)  # put back in the end
    values = {}
    for precision in 'float32', 'tf32', 'bf16':
        model.precision = precision
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            losses = model([image], [target], [given], generator(0))
        values[precision] = [loss.item() for loss in losses.values()]
        assert torch.backends.cudnn.allow_tf32 == (precision == 'tf32')
    assert values['float32'] == values['tf32'] != values['bf16']  # there is no tf32 on a CPU
    model.precision = 'half'
    with pytest.raises(ValueError, match=r"^precision: expected one of \('float32', .* got 'half'"):
        model([image])
