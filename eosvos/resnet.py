"""ResNet-50 with GroupNorm or frozen BatchNorm"""
from collections.abc import Callable
import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    "BatchNorm with fixed statistics: a scale and a shift per channel."

    def __init__(
        self,
        channels: int,  # C
        eps: float = 1e-5,  # added to the variance; 0 for torchvision's COCO_V1 weights
    ):
        super().__init__()
        self.eps = eps
        for name, value in dict(weight=1.0, bias=0.0, running_mean=0.0, running_var=1.0).items():
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        scale = self.weight * (self.running_var + self.eps).rsqrt()  # (C,)
        shift = self.bias - self.running_mean * scale  # (C,)
        return x * scale[:, None, None] + shift[:, None, None]


def group_norm(channels: int) -> nn.GroupNorm:  # C, divisible by 32
    "GroupNorm as the paper uses it: 32 groups."
    return nn.GroupNorm(32, channels)


class Bottleneck(nn.Module):
    "1x1 down, 3x3, 1x1 up to four times the width, added to the input."

    def __init__(
        self,
        inputs: int,  # channels that come in
        width: int,  # channels of the 3x3 convolution; 4 * width come out
        stride: int,  # of the 3x3 convolution
        norm: Callable[[int], nn.Module],  # makes the normalisation of C channels
    ):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), norm(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:  # the shortcut must have the shape of the result
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), norm(4 * width))

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    "The body of the paper's model: features at strides 4, 8, 16 and 32."
    channels = (256, 512, 1024, 2048)

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = group_norm,  # makes the normalisation of C channels
    ):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), norm(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for i, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), 1):
            strides = [1 if i == 1 else 2] + [1] * (blocks - 1)  # stage 1 stands behind the max-pool: it keeps the size
            stage = [Bottleneck(inputs if j == 0 else 4 * width, width, s, norm) for j, s in enumerate(strides)]
            setattr(self, f'layer{i}', nn.Sequential(*stage))
            inputs = 4 * width
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor) -> list[Tensor]:  # (B, 3, H, W) -> C2 ... C5
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, H/4, W/4)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features.append(x := stage(x))
        return features
