"What the exercises ask for: their answers, a table a page. Try an exercise before you look here."

import torch
import torch.nn.functional as F
from exercises import like, number
from torchvision import ops

from eosvos.box_head import box_loss
from eosvos.boxes import box_iou
from eosvos.lovasz import lovasz_weights
from eosvos.mask_head import mask_loss
from eosvos.resnet import FrozenBatchNorm2d

CHECKS = {}

# 00: the whole method


def bowl(g):
    "A function whose value and slopes are known, and a point."
    matrix, point = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (3, 1))
    return [lambda x: (x @ matrix @ x).sin(), point[0], 1e-4]


def descent(g):
    "The gradient of a bowl, a start, rates, and a number of steps."
    scale, start, rates = torch.rand(3, 4, generator=g)
    return [lambda x: 2 * scale * (x - 1), 3 * start, rates, 4]


def descended(gradient, start, rates, steps):
    if steps == 0:
        return start
    return descended(gradient, start - rates * gradient(start), rates, steps - 1)


CHECKS |= {
    '00.6': number(66, 0),
    '00.7': number(0.25),
    '00.8': number(0.064),
    '00.9': like(lambda f, x, small: torch.autograd.functional.jacobian(f, x), bowl),
    '00.10': like(descended, descent),
}

# 01: ResNet


def frozen_norm(g, channels):
    norm = FrozenBatchNorm2d(channels)
    for buffer in norm.buffers():
        buffer.copy_(0.1 + torch.rand(channels, generator=g))
    return norm


def fold(weight, norm):
    scale = norm.weight / (norm.running_var + norm.eps) ** 0.5
    return torch.einsum('dcij,d->dcij', weight, scale), norm.bias - norm.running_mean * scale


CHECKS |= {
    '01.1': number(98, 0),
    '01.2': number(0.8165),
    '01.3': like(fold, lambda g: [torch.randn(4, 3, 3, 3, generator=g), frozen_norm(g, 4)]),
    '01.4': number(0.75),
    '01.5': like(F.group_norm, lambda g: [torch.randn(2, 8, 3, 5, generator=g), 4]),
}

# 02: FPN

CHECKS |= {
    '02.1': number(984_064, 0),
    '02.3': number(459, 0),
    '02.4': number(20, 0),
    '02.5': like(
        lambda x, size: F.interpolate(x, size, mode='nearest'),
        lambda g: [torch.randn(1, 2, 4, 3, generator=g), (7, 5)],
    ),
    '02.6': like(
        lambda x: F.interpolate(x, scale_factor=2),
        lambda g: [torch.randn(2, 3, 4, 5, generator=g)],
    ),
}

# 03: boxes


def random_boxes(g, count):
    "Boxes (count, 4) within 100 x 100 pixels, sides from 1 to 40."
    corner = 60 * torch.rand(count, 2, generator=g)
    return torch.cat([corner, corner + 1 + 39 * torch.rand(count, 2, generator=g)], 1)


def soft_nms(boxes, scores):
    scores = scores.clone()
    left = list(range(len(boxes)))
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        for i in left:
            scores[i] *= 1 - box_iou(boxes[best, None], boxes[i, None])[0, 0]
    return scores


def scaled(boxes, factor):
    grown = (factor - 1) / 2 * (boxes[:, 2:] - boxes[:, :2])
    return boxes + torch.cat([-grown, grown], 1)


CHECKS |= {
    '03.1': number(0.64),
    '03.2': number(20),
    '03.4': like(
        ops.generalized_box_iou,
        lambda g: [random_boxes(g, 3), random_boxes(g, 4)],
    ),
    '03.5': like(scaled, lambda g: [random_boxes(g, 3), 2 * torch.rand((), generator=g)]),
    '03.6': like(soft_nms, lambda g: [random_boxes(g, 9), torch.rand(9, generator=g)]),
}

# 04: RPN


def forced(iou):
    best = torch.zeros(iou.shape[1], dtype=torch.bool)
    for row in iou[iou.amax(1) > 0]:
        best |= row == row.max()
    return best


def overlaps(g):
    "A table of IoU in tenths, so that ties occur, and an object that overlaps nothing."
    iou = (10 * torch.rand(3, 6, generator=g)).round() / 10
    iou[1] = 0
    return [iou]


def in_order(deltas):
    B, _, h, w = deltas.shape
    return deltas.view(B, -1, 4, h, w).permute(0, 3, 4, 1, 2).flatten(1, 3)


CHECKS |= {
    '04.2': like(forced, overlaps),
    '04.6': number(0.0209),
    '04.7': number(-181, 0),
    '04.8': like(in_order, lambda g: [torch.randn(2, 12, 3, 5, generator=g)]),
}

# 05: RoIAlign


def large_rois(g):
    "Three RoIs on one map of stride 8, larger than a feature."
    features = torch.randn(1, 2, 9, 12, generator=g)
    return [features, F.pad(random_boxes(g, 3) + torch.tensor([0, 0, 8, 8]), (1, 0)), 2, 1 / 8, 2]


def point(g):
    "A map, and a point in it."
    return [torch.randn(3, 5, 6, generator=g), *(4 * torch.rand(2, generator=g)).tolist()]


def read(features, y, x):
    grid = torch.tensor([[[[2 * x / 5 - 1, 2 * y / 4 - 1]]]])
    return F.grid_sample(features[None], grid, align_corners=True)[0, :, 0, 0]


CHECKS |= {
    '05.3': like(
        lambda features, rows, columns: rows @ features @ columns.mT,
        lambda g: [torch.rand(*shape, generator=g) for shape in ((3, 5, 6), (2, 5), (4, 6))],
    ),
    '05.4': like(
        lambda *arguments: ops.roi_align(*arguments[:2], 2, 1 / 8, 2, aligned=True), large_rois
    ),
    '05.5': number(896),
    '05.6': like(read, point),
}

# 06: box head


def guess(logits):
    weight = logits.exp()
    return 1 + logits[:, 1:].argmax(1), weight[:, 1:].amax(1) / weight.sum(1)


def labelled_deltas(g):
    "Deltas of six boxes for three classes, labels, and goals."
    deltas, goals = torch.randn(6, 3, 4, generator=g), torch.randn(6, 4, generator=g)
    return [deltas, torch.tensor([0, 2, 0, 1, 1, 0]), goals]


CHECKS |= {
    '06.5': number(0.65625),
    '06.6': number(36_746, 0),
    '06.7': like(guess, lambda g: [torch.randn(5, 4, generator=g)]),
    '06.8': like(
        lambda deltas, labels, goals: box_loss(torch.zeros(6, 3), deltas, labels, goals)[
            'loss_box_reg'
        ],
        labelled_deltas,
    ),
}

# 07: Lovász


def errors_and_truth(g):
    "Errors of eight pixels, of which about half are object and the first always is."
    errors, chance = 2 * torch.rand(2, 8, generator=g)
    return [errors, (torch.arange(8) * chance < 4).float()]


def pixel_weights(errors, truth):
    return lovasz_weights(errors[None], truth[None])[0]


CHECKS |= {
    '07.1': number(-0.4463, 0.02),
    '07.4': number(0.5333),
    '07.5': number(2 / 3),
    '07.6': like(
        lambda errors, truth: errors @ pixel_weights(errors, truth), errors_and_truth
    ),
    '07.7': like(pixel_weights, errors_and_truth),
}

# 08: mask head


def maps_and_known(g):
    "Logits, soft targets, and which pixels are known."
    logits, targets, chance = torch.rand(3, 2, 4, 4, generator=g)
    return [4 * logits - 2, targets, chance > 0.7]


CHECKS |= {
    '08.4': number(0.0999, 0.02),
    '08.5': number(8482, 0),
    '08.6': like(
        lambda logits, labels: torch.stack([o[label] for o, label in zip(logits, labels)]),
        lambda g: [torch.randn(4, 3, 5, 5, generator=g), torch.randint(3, (4,), generator=g)],
    ),
    '08.7': like(
        lambda mask, M: F.adaptive_avg_pool2d(mask[None], M)[0],
        lambda g: [(torch.rand(8, 12, generator=g) > 0.5).float(), 4],
    ),
    '08.8': like(lambda *masks: mask_loss(*masks[:2], 'bce', masks[2]), maps_and_known),
}

# 09: Mask R-CNN

# 10: the small model

# 11: metrics

# 12: fine-tuning

# 13: following

# 14: the meta-gradient

# 15: tasks

# 16: parent

# 17: training

# 18: study
