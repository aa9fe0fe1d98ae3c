"""BERT-base (arXiv 1810.04805) as a sequence classifier."""

import torch
from torch import Tensor, nn

WIDTH = 768
HEADS = 12
DEPTH = 12
POSITIONS = 512


class MaskedAttention(nn.Module):
    """Multi-head self-attention with separate projections and an additive mask."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._by_head(f(x)) for f in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        mixed = (scores + mask).softmax(3) @ value
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(x.shape))
        return y


class EncoderLayer(nn.Module):
    """Attention and a two-layer network; the norm comes after each sum."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = MaskedAttention()
        self.norm_attention = nn.LayerNorm(WIDTH, eps=1e-12)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm_network = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm_attention(x + self.attention(x, mask))
        y: Tensor = self.norm_network(x + self.network(x))
        return y


class BertClassifier(nn.Module):
    """Three embeddings summed, twelve layers, a tanh layer on the first token, a classifier."""

    positions: Tensor

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.places = nn.Embedding(POSITIONS, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(DEPTH))
        self.pooler = nn.Linear(WIDTH, WIDTH)
        self.classifier = nn.Linear(WIDTH, classes)
        self.register_buffer("positions", torch.arange(POSITIONS).unsqueeze(0), persistent=False)

    def forward(self, tokens: Tensor, attention_mask: Tensor, segments: Tensor) -> Tensor:
        places = self.places(self.positions[:, : tokens.shape[1]])
        x = self.norm(self.words(tokens) + self.segments(segments) + places)
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        logits: Tensor = self.classifier(self.pooler(x[:, 0]).tanh())
        return logits


def bert_base_chinese(classes: int = 2) -> nn.Module:
    """Return a classifier of BERT-base size with the Chinese vocabulary of 21,128 words, in eval mode."""
    return BertClassifier(21128, classes).eval()
