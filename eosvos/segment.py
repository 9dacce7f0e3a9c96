"""Following objects"""
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from eosvos.augment import AugmentConfig
from eosvos.core import generator, masks_to_boxes
from eosvos.inner_sgd import FineTuneConfig, as_target, fine_tune, initial_weights, views
from eosvos.mask_rcnn import MaskRCNN, resized


@dataclass(frozen=True)
class SegmentConfig:
    "How objects are followed; the defaults are the paper's e-OSVOS-10."
    fine_tune: FineTuneConfig = FineTuneConfig()
    boxes: int = 500  # jittered copies of the previous box that join the proposals (section 3.3)
    grow: float = 0.1  # each side moves outwards by up to this share of the box
    online: bool = False  # online adaptation (section 3.3)
    online_every: int = 5  # frames between two adaptations, I_OnA
    online_iterations: int = 10  # inner steps of each, T_OnA
    threshold: float = 0.5  # least probability of a pixel of an object
    seed: int = 1


PAPER_SEGMENT = SegmentConfig()
SMALL_SEGMENT = SegmentConfig(fine_tune=FineTuneConfig(batch=1, clip=10.0), boxes=100)


def jitter(
    box: Tensor,  # (4,) xyxy, pixels
    count: int,
    grow: float,  # each side moves outwards by up to this share of the box
    random: torch.Generator,
) -> Tensor:  # (count, 4)
    "Copies of a box that are a little larger: where the object may be one frame later."
    w, h = (box[2:] - box[:2]).tolist()
    reach = box.new_tensor([-w, -h, w, h]) * grow
    return box + torch.rand(count, 4, generator=random).to(box) * reach


class Follower:
    "One object: its own fine-tuned weights, and where it was last."

    def __init__(
        self,
        model: MaskRCNN,
        image: Tensor,  # (3, H, W) the frame whose mask is known
        mask: Tensor,  # (H, W) bool
        config: SegmentConfig,
        name: int,  # id of the object, a seed of its draws
    ):
        self.model, self.config, self.key = model, config, (config.seed, name)
        self.past, self.frames, self.adaptations = deque(maxlen=config.online_every), 0, 0
        self.first, self.mask, self.fallback = (image, mask), mask, mask
        small, shrunk = shrink(image, mask, model)
        self.tuned, self.log = fine_tune(model, initial_weights(model), views(small, shrunk, config.fine_tune, self.key), config.fine_tune, self.key)
        self.weights = self.tuned

    @torch.no_grad()
    def step(
        self,
        image: Tensor,  # (3, H, W) the next frame
    ) -> Tensor:  # (H, W) probability of the object; 0 everywhere where it is not found
        "Finds the object in the next frame."
        if self.config.online and self.frames and self.frames % self.config.online_every == 0:
            self.adapt()
        last = self.mask if self.mask.any() else self.fallback
        given = None
        if last.any() and self.config.boxes:
            given = [jitter(masks_to_boxes(last[None])[0], self.config.boxes, self.config.grow, generator(*self.key, 'jitter', self.frames))]
        found = functional_call(self.model, self.weights, ([image],), dict(given=given))[0]
        self.found = found
        result = found['masks'][0] if len(found['masks']) else image.new_zeros(image.shape[-2:])
        self.mask = result >= self.config.threshold
        self.past.append((image, self.mask))
        self.frames += 1
        return result

    @torch.enable_grad()
    def adapt(self) -> None:
        "Starts again from the first-frame weights, with two past predictions beside the first frame (released code: the older ones of the window)."
        pairs = [self.first] + [pair for pair in list(self.past)[1:3] if pair[1].any()]
        images, masks = zip(*[shrink(*pair, self.model) for pair in pairs], strict=True)
        batch = (list(images), [as_target(m) for m in masks])
        steps = [batch] * self.config.online_iterations
        self.weights, _ = fine_tune(self.model, self.tuned, steps, self.config.fine_tune, (*self.key, 'online', self.frames))
        self.fallback = self.mask


def shrink(
    image: Tensor,  # (3, H, W)
    mask: Tensor,  # (H, W) bool
    model: MaskRCNN,
) -> tuple[Tensor, Tensor]:
    "A training pair at the size at which the model works, if that is smaller: augmenting it is then cheaper."
    size = resized(tuple(mask.shape), model.config)
    if size[0] >= mask.shape[0]:
        return image, mask
    shrunk = F.interpolate(mask[None, None].float(), size, mode='area')[0, 0] >= 0.5
    return F.interpolate(image[None], size, mode='bilinear', antialias=True)[0], shrunk if shrunk.any() else F.adaptive_max_pool2d(mask[None].float(), size)[0] > 0


def segment(
    model: MaskRCNN,
    clip,  # `Clip`: frames (3, H, W)
    masks: dict[int, Tensor],  # frame number to id map (H, W), where objects are given
    config: SegmentConfig,
    device: torch.device = torch.device('cpu'),
) -> Iterator[tuple[int, Tensor]]:  # frame number, id map (H, W)
    "Follows every object from the frame that gives its mask to the end of the clip, frame by frame."
    followers: dict[int, Follower] = {}
    model = model.to(device)
    for i in range(len(clip)):
        image = clip[i].to(device)
        ids = torch.zeros(image.shape[-2:], dtype=torch.int64, device=device)
        if followers:
            maps = torch.stack([f.step(image) for f in followers.values()])  # (K, H, W)
            best, owner = maps.max(dim=0)
            ids = torch.where(best >= config.threshold, torch.tensor(list(followers), device=device)[owner], 0)
        if i in masks:
            given = masks[i].to(device)
            for k in given.unique().tolist():
                if k and k not in followers:
                    followers[k] = Follower(model, image, given == k, config, k)
                    ids[given == k] = k
        yield i, ids.cpu()
