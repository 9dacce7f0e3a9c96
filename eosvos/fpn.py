"""Feature pyramid"""
import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    "Gives every level the same number of channels, and the fine levels the knowledge of the coarse ones."

    def __init__(
        self,
        inputs: tuple[int, ...],  # channels of C2 ... C5
        channels: int,  # channels of every level of the pyramid
    ):
        super().__init__()
        self.inner_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(c, channels, 1)) for c in inputs])
        self.layer_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in inputs])
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight, a=1)
                nn.init.zeros_(m.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:  # C2 ... C5 -> P2 ... P6
        lateral = [inner(c) for inner, c in zip(self.inner_blocks, features, strict=True)]
        for i in reversed(range(len(lateral) - 1)):  # from coarse to fine
            lateral[i] = lateral[i] + F.interpolate(lateral[i + 1], size=lateral[i].shape[-2:], mode='nearest')
        pyramid = [layer(x) for layer, x in zip(self.layer_blocks, lateral, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]  # P6 sees what is too large for P5


class Backbone(nn.Module):
    "Body and pyramid: an image to features at strides 4, 8, 16, 32 and 64."

    def __init__(
        self,
        body: nn.Module,  # images to features C2 ... C5, with a tuple `channels`
        channels: int = 256,  # of every level of the pyramid
    ):
        super().__init__()
        self.body, self.fpn = body, FeaturePyramid(body.channels, channels)
        self.channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:  # (B, 3, H, W) -> P2 ... P6, each (B, channels, h, w)
        return self.fpn(self.body(images))
