"""Networks to build, load and run: one file a family, each readable beside its paper.

    net = fastconv.models.resnet50(weights="resnet50.pth")
    scores = net(images)  # (N, 3, 224, 224) -> (N, 1000)

Every function takes `num_classes`, `in_channels`, `dtype` (float32 or float64) and `weights`, a path
or a mapping as `load_state_dict` takes one; without it the parameters are random. Parameter names
are those of torchvision, of timm where torchvision has no such network, so that their checkpoints
load unchanged. What is returned is in `eval()` mode.
"""

from fastconv.models.alexnet import alexnet
from fastconv.models.densenet import densenet121
from fastconv.models.googlenet import googlenet
from fastconv.models.inception_v4 import inception_v4
from fastconv.models.lenet import lenet5
from fastconv.models.mobilenet_v1 import mobilenet_v1
from fastconv.models.mobilenet_v2 import mobilenet_v2
from fastconv.models.nin import nin
from fastconv.models.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    se_resnet50,
)
from fastconv.models.shufflenet_v1 import shufflenet_v1
from fastconv.models.shufflenet_v2 import shufflenet_v2
from fastconv.models.squeezenet import squeezenet
from fastconv.models.unet import unet
from fastconv.models.vgg import (
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from fastconv.models.xception import xception

__all__ = [
    "alexnet",
    "densenet121",
    "googlenet",
    "inception_v4",
    "lenet5",
    "mobilenet_v1",
    "mobilenet_v2",
    "nin",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext50_32x4d",
    "se_resnet50",
    "shufflenet_v1",
    "shufflenet_v2",
    "squeezenet",
    "unet",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "xception",
]
