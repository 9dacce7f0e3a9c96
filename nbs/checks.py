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


def batch_size(sizes, low, high):
    scales = [min(low / min(size), high / max(size)) for size in sizes]
    sides = [[int(n * scale) for n in size] for size, scale in zip(sizes, scales)]
    return [32 * ((max(o) + 31) // 32) for o in zip(*sides)]


def random_sizes(g):
    return [[tuple(s) for s in torch.randint(60, 900, (3, 2), generator=g).tolist()], 100, 160]


def owners(iou):
    return torch.tensor([-1 if max(o) < 0.5 else o.index(max(o)) for o in iou.T.tolist()])


CHECKS |= {
    '09.1': number(1088, 0),
    '09.2': like(batch_size, random_sizes),
    '09.3': like(
        lambda boxes, old, new: torch.stack([boxes[:, k] * (2.0, 0.5)[k % 2] for k in range(4)], 1),
        lambda g: [100 * torch.rand(3, 4, generator=g), (40, 60), (20, 120)],
    ),
    '09.4': like(owners, lambda g: [torch.rand(3, 8, generator=g)]),
    '09.5': number(1, 0),
}

# 10: the small model


def folded_kernel(weight, gamma, beta, mean, variance, eps):
    def norm(x):  # (out, ...) of each output channel
        shape = -1, *[1] * (x.dim() - 1)
        return (gamma / (variance + eps) ** 0.5).reshape(shape) * x

    return norm(weight), beta - norm(mean)


CHECKS |= {
    '10.1': number(8208, 0),
    '10.2': like(
        folded_kernel,
        lambda g: [
            torch.randn(3, 3, 3, 3, generator=g),
            *torch.randn(3, 3, generator=g),
            0.5 + torch.rand(3, generator=g),
            0.1,
        ],
    ),
    '10.3': number(2160, 0),
}

# 11: metrics


def jaccard_of(pred, true, k):
    pred, true = pred == k, true == k
    return (pred * true).sum() / (pred | true).sum()


def share_near(points, others, radius):
    if not len(points):
        return 1.0
    return sum(any((p - o).norm() <= radius for o in others) for p in points) / len(points)


def f_of_points(a, b, radius):
    p, r = share_near(a, b, radius), share_near(b, a, radius)
    return 2 * p * r / (p + r) if p + r else 0.0


def random_points(g):
    counts = torch.randint(5, (2,), generator=g).tolist()
    return [*[8 * torch.rand(n, 2, generator=g) for n in counts], 2.5]


CHECKS |= {
    '11.1': number(0.6),
    '11.2': like(
        jaccard_of,
        lambda g: [*torch.randint(4, (2, 6, 7), generator=g), 2],
    ),
    '11.3': number(1),
    '11.4': number(12, 0),
    '11.5': like(f_of_points, random_points),
    '11.6': number(0, 0),
}

# 12: fine-tuning


def convolution_step(weight, gradient, rates):
    return torch.stack([w - r * g for w, g, r in zip(weight, gradient, rates)])


def common_clip(gradients, most):
    norm = sum(g.square().sum() for g in gradients).sqrt()
    return [g * min(1.0, most / norm.item()) for g in gradients]


CHECKS |= {
    '12.1': number(0.75),
    '12.2': number(9, 0),
    '12.3': like(
        common_clip,
        lambda g: [[torch.randn(3, generator=g), torch.randn(3, generator=g)], 2.0],
    ),
    '12.4': like(
        convolution_step,
        lambda g: [*torch.randn(2, 3, 3, 3, 3, generator=g), torch.rand(3, generator=g)],
    ),
    '12.5': number(512, 0),
    '12.6': like(
        lambda rates: rates.log().mean((1, 2, 3), keepdim=True).exp(),
        lambda g: [0.1 + torch.rand(3, 2, 3, 3, generator=g)],
    ),
}

# 13: following


def pick(scores, ious, nearness):
    ranks = [s * (1 - nearness + nearness * o) for s, o in zip(scores, ious)]
    return ranks.index(max(ranks)) if ranks else -1


def merged(probabilities, ids):
    result = torch.zeros(probabilities.shape[1:], dtype=torch.int64)
    for k, p in zip(ids, probabilities):
        result[(p == probabilities.amax(0)) & (p >= 0.5)] = k
    return result


def random_detections(g):
    count = int(torch.randint(6, (), generator=g))
    return [*torch.rand(2, count, generator=g), torch.rand((), generator=g)]


CHECKS |= {
    '13.1': number(0.7167),
    '13.2': like(pick, random_detections),
    '13.3': like(
        lambda box, draws: box + draws * torch.tensor([-2.0, -1, 2, 1]),
        lambda g: [torch.tensor([5.0, 5, 25, 15]), torch.rand(7, 4, generator=g)],
    ),
    '13.4': like(
        merged,
        lambda g: [torch.rand(3, 5, 6, generator=g), torch.tensor([3, 7, 8])],
    ),
    '13.5': number(18, 0),
}

# 14: the meta-gradient


def bowls(g, steps=3):
    "A slope v, gradients and symmetric Hessians of some steps, and rates, all of 4 weights."
    squares = torch.randn(steps, 4, 4, generator=g)
    return [
        torch.randn(4, generator=g),
        torch.randn(steps, 4, generator=g),
        squares + squares.mT,
        0.2 * torch.rand(4, generator=g),
    ]


def one_bowl(g):
    v, gradients, hessians, rates = bowls(g, 1)
    return [v, gradients[0], hessians[0], rates]


def back(v, g, hessian, rates):
    return v - hessian @ (rates * v), -v * g


def way_back(v, gradients, hessians, rates):
    total = torch.zeros(4)
    for t in (2, 1, 0):
        v, part = back(v, gradients[t], hessians[t], rates)
        total = total + part
    return v, total


def end_of_path(start, target, hessian, rates, steps):
    for _ in range(steps):
        start = start - rates * (hessian @ start)
    return start - target


CHECKS |= {
    '14.1': number(0.008128),
    '14.2': like(
        lambda v, rates, h: v * (1 - rates * h) * (1 - rates * h) - v,
        lambda g: [torch.randn(3, generator=g), *torch.rand(2, 3, generator=g)],
    ),
    '14.3': like(back, one_bowl),
    '14.4': like(way_back, bowls),
    '14.5': like(end_of_path, lambda g: [*one_bowl(g), 3]),
    '14.6': like(
        lambda start, end, rates: (start - end) / rates,
        lambda g: [*torch.randn(2, 3, 5, generator=g), 0.1 + torch.rand(3, 1, generator=g)],
    ),
    '14.7': like(
        lambda v, gradients: torch.stack([-(v * g).sum(1) for g in gradients]),
        lambda g: [torch.randn(4, 4, generator=g), torch.randn(4, 4, 4, generator=g)],
    ),
    '14.8': number(20, 0),
}

# 15: tasks


def random_ids(g):
    ids = torch.randint(5, (5, 6), generator=g)
    ids[0, 0], ids[-1] = 1, 255
    return [ids]


CHECKS |= {
    '15.1': number(8000),
    '15.2': like(
        lambda ids: torch.stack([ids == k for k in range(1, 255) if (ids == k).any()]), random_ids
    ),
    '15.3': number(0.5),
    '15.4': like(
        lambda first, count, draw: first + 1 + (draw * (count - 1 - first)).long(),
        lambda g: [*torch.randint(9, (1,), generator=g).tolist(), 12, torch.rand((), generator=g)],
    ),
    '15.5': number(20.5, 0.03),
}

# 16: parent


def share(step, steps, warmup):
    if step < warmup:
        return torch.tensor((step + 1) / warmup)
    return torch.cos(torch.tensor(torch.pi / 2 * (step - warmup) / (steps - warmup))) ** 2


CHECKS |= {
    '16.1': number(346.2),
    '16.2': number(1.5e-4),
    '16.3': number(2801, 0),
    '16.4': like(
        lambda masks, added: torch.cat([masks & (masks ^ added), added[None]]),
        lambda g: [
            torch.rand(3, 4, 5, generator=g) < 0.3,
            torch.rand(4, 5, generator=g) < 0.5,
        ],
    ),
    '16.5': like(share, lambda g: [*torch.randint(40, (1,), generator=g).tolist(), 50, 10]),
}

# 17: training


def finite_tasks(g):
    gradients = torch.randn(5, 4, generator=g)
    gradients[1, 2], gradients[4, 0] = float('nan'), float('inf')
    return [gradients]


def running_mean(weights, decay):
    shares = [(1 - decay) * decay ** (len(weights) - 1 - t) for t in range(len(weights))]
    shares[0] /= 1 - decay
    return sum(s * w for s, w in zip(shares, weights))


CHECKS |= {
    '17.1': number(0.0081873),
    '17.2': like(
        lambda r, g, lr, highest: (r * (-lr * r * g).exp()).clamp(max=highest),
        lambda g: [torch.rand(6, generator=g), torch.randn(6, generator=g), 0.5, 0.8],
    ),
    '17.3': like(lambda gradients: (gradients[0] + gradients[2:4].sum(0)) / 3, finite_tasks),
    '17.4': like(running_mean, lambda g: [torch.randn(6, 3, generator=g), 0.8]),
    '17.5': number(2_000_000),
    '17.10': number(0.16389),
}

# 18: study

CHECKS |= {
    '18.1': number(0.189, 0.03),
    '18.2': like(
        lambda a, b, columns: sum(a[k] - b[k] for k in columns) / len(columns),
        lambda g: [
            *(100 * torch.rand(2, 10, generator=g)).numpy(),
            torch.randint(10, (10,), generator=g).numpy(),
        ],
    ),
    '18.3': like(
        lambda averages: averages.sort()[0][[10, 390]],
        lambda g: [torch.randn(401, generator=g)],
    ),
    '18.4': like(
        lambda rates: rates.prod() ** (1 / rates.size) + 0 * rates,
        lambda g: [(0.1 + torch.rand(3, 4, generator=g, dtype=torch.double)).numpy()],
    ),
}

# 19: scale

CHECKS |= {
    '19.1': number(0.62, 0.02),
    '19.2': number(28571),
    '19.3': number(2, 0),
}
