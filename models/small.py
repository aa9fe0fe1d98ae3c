"""Two small networks that often serve as a first test of an inference runtime."""

import torch
from torch import Tensor, nn


class CntkMnist(nn.Module):
    """The MNIST network of the ONNX model zoo: two 5x5 convolutions, biases added apart, pools of 2 and 3."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2, bias=False)
        self.bias1 = nn.Parameter(torch.zeros(8, 1, 1))
        self.conv2 = nn.Conv2d(8, 16, 5, padding=2, bias=False)
        self.bias2 = nn.Parameter(torch.ones(16, 1, 1))
        self.pool1 = nn.MaxPool2d(2, 2)
        self.pool2 = nn.MaxPool2d(3, 3)
        self.weight = nn.Parameter(torch.zeros(256, classes))
        self.bias = nn.Parameter(torch.zeros(1, classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool1((self.conv1(images) + self.bias1).relu())
        x = self.pool2((self.conv2(x) + self.bias2).relu())
        logits: Tensor = x.flatten(1) @ self.weight + self.bias
        return logits


def mnist_cntk(classes: int = 10) -> nn.Module:
    """Return the MNIST network in eval mode."""
    return CntkMnist(classes).eval()


class StridedConvNet(nn.Module):
    """Four 3x3 stride 2 convolutions with batch norm and ReLU, global pool, classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 64), (64, 128), (128, 256), (256, 512)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def strided_conv_net(classes: int = 10) -> nn.Module:
    """Return the network that NVIDIA's DLA tutorial trains on CIFAR-10, in eval mode."""
    return StridedConvNet(classes).eval()
