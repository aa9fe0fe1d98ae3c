"""Fold batch norms into the convolutions before them, as exporters do before they write a file."""

import copy
from itertools import pairwise

import torch
from torch import nn


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Return a copy of `module` in eval mode whose conv + batch norm pairs are one convolution.

    A pair is a convolution directly followed by a batch norm of its output channels in the
    registration order of one parent, and nothing else may read the convolution's output. The batch
    norm becomes an `nn.Identity`.
    """
    folded = copy.deepcopy(module).eval()
    for parent in folded.modules():
        _fold_children(parent)
    return folded


def _fold_children(parent: nn.Module) -> None:
    children = list(parent.named_children())
    for (conv_name, conv), (norm_name, norm) in pairwise(children):
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if conv.out_channels == norm.num_features:
            setattr(parent, conv_name, _folded_conv(conv, norm))
            setattr(parent, norm_name, nn.Identity())


@torch.no_grad()
def _folded_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return w' = w * g / sqrt(var + eps) and b' = (b - mean) * g / sqrt(var + eps) + beta."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(norm.bias) if conv.bias is None else conv.bias
    conv.weight.copy_(conv.weight * scale.reshape(-1, 1, 1, 1))
    conv.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
    return conv
