"""Vision Transformer (arXiv 2010.11929) with 16x16 patches and a class token, for 224x224 images."""

import torch
from torch import Tensor, nn

PATCH_PX = 16
IMAGE_PX = 224


class SelfAttention(nn.Module):
    """Multi-head self-attention written out as two matrix products and a softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        mixed = self.project_in(x).reshape(batch, tokens, 3, self.heads, self.head_width)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query * self.head_width**-0.5 @ key.transpose(2, 3)).softmax(3)
        y: Tensor = self.project_out((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
        return y


class EncoderBlock(nn.Module):
    """Attention and a two-layer network, each behind a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.norm_network = nn.LayerNorm(width, eps=1e-6)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        y: Tensor = x + self.network(self.norm_network(x))
        return y


class VisionTransformer(nn.Module):
    """Patch embedding, class token, learned positions, encoder, classifier on the class token."""

    def __init__(self, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        tokens = (IMAGE_PX // PATCH_PX) ** 2 + 1
        self.embed = nn.Conv2d(3, width, PATCH_PX, PATCH_PX)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        token = self.class_token + images.new_zeros(images.shape[0], 1, 1)  # shape inference follows this
        x = torch.cat((token, patches), 1) + self.positions
        logits: Tensor = self.classifier(self.norm(self.blocks(x))[:, 0])
        return logits


def vit_b_16(classes: int = 1000) -> nn.Module:
    """Return ViT-B/16 in eval mode."""
    return VisionTransformer(768, 12, 12, classes).eval()


def vit_s_16(classes: int = 1000) -> nn.Module:
    """Return ViT-S/16 in eval mode."""
    return VisionTransformer(384, 12, 6, classes).eval()
