"""Single ops whose kernels may take scratch, each as a small module: recorded like models, in every dtype and layout.

They cover what the models do not reach: shapes at the edges of a rule, and ops that are rare in vision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Function = Callable[..., Any]


class Case(nn.Module):
    """A function of its inputs."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Call the function."""
        return self.function(*inputs)


sdpa = functional.scaled_dot_product_attention


def view(q: torch.Tensor) -> torch.Tensor:
    """Heads before positions, as attention wants them, without a copy."""
    return q.contiguous().transpose(1, 2)


def cases() -> Iterator[tuple[str, Function, list[torch.Tensor]]]:
    """Name, function, example inputs (fp32; floats are cast by the recorder, 4-d ones take the memory format)."""
    z, i64 = torch.zeros, torch.int64
    for heads, length, size in (
        (8, 128, 64),
        (12, 197, 64),
        (6, 50, 32),
        (4, 64, 128),
        (8, 77, 40),
        (2, 33, 20),
        (2, 1024, 256),
        (1, 4096, 512),
        (4, 40, 72),
        (4, 96, 192),
    ):
        q = z(2, length, heads, size)
        yield f"sdpa/{heads}x{length}x{size}", lambda q: sdpa(view(q), view(q), view(q)), [q]
        yield f"sdpa_causal/{heads}x{length}x{size}", lambda q: sdpa(view(q), view(q), view(q), is_causal=True), [q]
        yield (
            f"sdpa_bool/{heads}x{length}x{size}",
            lambda q, m: sdpa(view(q), view(q), view(q), attn_mask=m),
            [q, torch.ones(2, 1, length, length, dtype=torch.bool)],
        )
        yield (
            f"sdpa_float/{heads}x{length}x{size}",
            lambda q, m: sdpa(view(q), view(q), view(q), attn_mask=m),
            [q, z(1, heads, length, length)],
        )
        yield f"sdpa_cross/{heads}x{length}x{size}", lambda q, k: sdpa(view(q), view(k), view(k)), [q, z(2, 57, heads, size)]
        yield (
            f"sdpa_rows/{heads}x{length}x{size}",
            lambda q, m: sdpa(view(q), view(q), view(q), attn_mask=m),
            [q, torch.ones(2, 1, 1, length, dtype=torch.bool)],
        )
    yield (
        "sdpa_gqa",
        lambda q, k: functional.scaled_dot_product_attention(q, k, k, enable_gqa=True, is_causal=True),
        [z(2, 8, 64, 64), z(2, 2, 64, 64)],
    )
    yield "sdpa_3d", lambda q: functional.scaled_dot_product_attention(q, q, q), [z(8, 100, 64)]
    yield "sdpa_decode", lambda q, k: functional.scaled_dot_product_attention(q, k, k), [z(1, 8, 1, 64), z(1, 8, 4096, 64)]
    for shape in ((1000,), (64, 1000), (8, 8400), (2, 100000), (3, 33600), (16, 300, 80)):
        name = "x".join(map(str, shape))
        yield f"topk5/{name}", lambda x: x.topk(5), [z(shape)]
        yield f"topk300/{name}", lambda x: x.flatten(-1).topk(min(300, x.shape[-1])), [z(shape)]
        yield f"topk1000/{name}", lambda x: x.topk(min(1000, x.shape[-1])), [z(shape)]
        yield f"sort/{name}", lambda x: x.sort(-1), [z(shape)]
        yield f"sort_stable/{name}", lambda x: torch.sort(x, dim=-1, stable=True, descending=True), [z(shape)]
        yield f"argsort/{name}", lambda x: x.argsort(-1), [z(shape)]
        yield f"cumsum/{name}", lambda x: x.cumsum(-1), [z(shape)]
        yield f"cumsum_int/{name}", lambda x: (x > 0).cumsum(-1), [z(shape)]
        yield f"max/{name}", lambda x: x.max(-1), [z(shape)]
        yield f"argmax/{name}", lambda x: x.argmax(-1), [z(shape)]
        yield f"amax/{name}", lambda x: (x.amax(), x.amax(-1), x.max()), [z(shape)]
        yield f"sum/{name}", lambda x: (x.sum(), x.sum(0), x.sum(-1)), [z(shape)]
        yield f"mean/{name}", lambda x: (x.mean(), x.mean(0), x.mean(-1, keepdim=True)), [z(shape)]
        yield f"softmax/{name}", lambda x: (x.softmax(-1), x.softmax(0), x.log_softmax(-1)), [z(shape)]
        yield (
            f"softmax32/{name}",
            lambda x: (x.softmax(-1, dtype=torch.float32), functional.softmax(x.float(), -1).to(x.dtype)),
            [z(shape)],
        )
        yield (
            f"norms/{name}",
            lambda x: (x.norm(), x.std(-1), x.var(0), x.norm(dim=-1), functional.normalize(x, dim=-1)),
            [z(shape)],
        )
        yield f"nonzero/{name}", lambda x: (x >= 0).nonzero(), [z(shape)]
        yield f"where_index/{name}", lambda x: x[x >= 0], [z(shape)]
        yield f"unique/{name}", lambda x: x.unique(), [z(shape)]
        yield f"any/{name}", lambda x: ((x > 0).any(), (x > 0).all(-1), torch.isnan(x).any(), x.equal(x)), [z(shape)]
        yield f"rms/{name}", lambda x: functional.rms_norm(x, x.shape[-1:], None), [z(shape)]
        yield f"layer_norm/{name}", lambda x: functional.layer_norm(x, x.shape[-1:]), [z(shape)]
        yield f"layer_norm_t/{name}", lambda x: functional.layer_norm(x.movedim(0, -1), (x.shape[0],)), [z(shape)]
    for shape in ((1, 64, 56, 56), (8, 64, 56, 56), (2, 256, 14, 14), (4, 1280, 7, 7), (1, 3, 640, 640), (2, 96, 17, 23)):
        name = "x".join(map(str, shape))
        x = z(shape)
        yield (
            f"mean_hw/{name}",
            lambda x: (
                x.mean((2, 3)),
                x.mean((2, 3), keepdim=True),
                x.mean(1, keepdim=True),
                x.mean((1, 2, 3)),
                x.sum((0, 2, 3)),
            ),
            [x],
        )
        yield f"max_hw/{name}", lambda x: (x.amax((2, 3)), x.max(1), x.amax(1, keepdim=True), x.flatten(2).max(-1)), [x]
        yield f"var_hw/{name}", lambda x: (x.var((2, 3)), torch.var_mean(x, (1, 2, 3)), x.std((2, 3), keepdim=True)), [x]
        yield (
            f"pool/{name}",
            lambda x: (
                functional.adaptive_avg_pool2d(x, 1),
                functional.adaptive_avg_pool2d(x, 7),
                functional.avg_pool2d(x, 3, 2, 1),
                functional.max_pool2d(x, 3, 2, 1),
                functional.adaptive_max_pool2d(x, 3),
            ),
            [x],
        )
        for mode in ("nearest", "bilinear", "bicubic", "area", "nearest-exact"):
            yield (
                f"resize_{mode}/{name}",
                lambda x, mode=mode: (
                    functional.interpolate(x, scale_factor=2, mode=mode),
                    functional.interpolate(x, size=(13, 17), mode=mode),
                ),
                [x],
            )
        yield f"resize_aa/{name}", lambda x: functional.interpolate(x, size=(19, 21), mode="bilinear", antialias=True), [x]
        yield (
            f"grid/{name}",
            lambda x: functional.grid_sample(
                x,
                functional.affine_grid(
                    torch.zeros(x.shape[0], 2, 3, device=x.device, dtype=x.dtype), list(x.shape), align_corners=False
                ),
                align_corners=False,
            ),
            [x],
        )
        yield (
            f"pad/{name}",
            lambda x: (
                functional.pad(x, (1, 2, 3, 4)),
                functional.pad(x, (1, 1, 1, 1), mode="reflect"),
                functional.pad(x, (1, 1, 1, 1), mode="replicate"),
            ),
            [x],
        )
        yield f"roll/{name}", lambda x: (x.roll((1, 2), (2, 3)), x.roll(3, 1), x.roll(5), x.flip(3)), [x]
        yield (
            f"shuffle/{name}",
            lambda x: (
                functional.pixel_shuffle(x[:, : x.shape[1] // 4 * 4], 2) if x.shape[1] > 3 else x,
                functional.unfold(x, 3),
                functional.pixel_unshuffle(x[:, :, :6, :4], 2),
            ),
            [x],
        )
        yield (
            f"group_norm/{name}",
            lambda x: (functional.group_norm(x, 1), functional.instance_norm(x), functional.local_response_norm(x, 5)),
            [x],
        )
        yield f"batch_norm/{name}", lambda x: functional.batch_norm(x, x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])), [x]
        yield (
            f"batch_norm_affine/{name}",
            lambda x: functional.batch_norm(
                x, x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]), x.new_ones(x.shape[1]), x.new_ones(x.shape[1])
            ),
            [x],
        )
        yield (
            f"layer_norm2d/{name}",
            lambda x: functional.layer_norm(
                x.permute(0, 2, 3, 1), (x.shape[1],), x.new_ones(x.shape[1]), x.new_ones(x.shape[1])
            ).permute(0, 3, 1, 2),
            [x],
        )
        yield (
            f"cat/{name}",
            lambda x: (
                torch.cat((x, x), 1),
                torch.cat((x, x[:, :1]), 1),
                torch.stack((x, x)),
                torch.cat([x] * 9, 2),
                torch.cat((x, x.transpose(2, 3).contiguous().transpose(2, 3)), 1),
            ),
            [x],
        )
        yield (
            f"chunk/{name}",
            lambda x: [functional.conv2d(part, part.new_zeros(8, part.shape[1], 3, 3), padding=1) for part in x.chunk(2, 1)],
            [x],
        )
        yield (
            f"depthwise/{name}",
            lambda x: [
                functional.conv2d(x, x.new_zeros(x.shape[1], 1, k, k), stride=s, padding=k // 2, groups=x.shape[1])
                for k in (3, 5, 7)
                for s in (1, 2)
            ],
            [x],
        )
        yield f"grouped/{name}", lambda x: functional.conv2d(x, x.new_zeros(x.shape[1] * 2, 1, 3, 3), groups=x.shape[1]), [x]
        yield (
            f"conv_bias/{name}",
            lambda x: (
                functional.conv2d(x, x.new_zeros(16, x.shape[1], 3, 3), x.new_zeros(16)),
                functional.conv2d(x, x.new_zeros(24, x.shape[1], 1, 1), x.new_zeros(24)),
                functional.conv2d(x.transpose(2, 3), x.new_zeros(16, x.shape[1], 3, 3)),
            ),
            [x],
        )
        yield (
            f"conv_t/{name}",
            lambda x: (
                functional.conv_transpose2d(x, x.new_zeros(x.shape[1], 8, 2, 2), stride=2),
                functional.conv_transpose2d(x, x.new_zeros(x.shape[1], 8, 4, 4), x.new_zeros(8), stride=2, padding=1),
            ),
            [x],
        )
        yield (
            f"index/{name}",
            lambda x: (
                x[:, [0, 2, 1]],
                x[..., torch.arange(3, device=x.device)],
                x.index_select(1, torch.arange(2, device=x.device)),
                x.gather(3, torch.zeros(*x.shape[:3], 4, dtype=i64, device=x.device)),
                x.masked_fill(x > 0, 1.0),
                x[x.flatten() >= 0] if False else x.masked_select(x >= 0),
            ),
            [x],
        )
        yield (
            f"einsum/{name}",
            lambda x: (
                torch.einsum("bchw,bdhw->bcd", x, x),
                torch.einsum("bchw,dc->bdhw", x, x.new_zeros(5, x.shape[1])),
                torch.einsum("bchw,bchv->bchwv", x[..., :5], x[..., :3]),
            ),
            [x],
        )
        yield (
            f"elementwise/{name}",
            lambda x: (
                functional.gelu(x),
                functional.silu(x),
                functional.hardswish(x),
                functional.softplus(x),
                functional.glu(x[:, :2], 1),
                x.clamp(0, 1),
                x.sigmoid(),
                torch.where(x > 0, x, x * 2),
                functional.mish(x),
                functional.prelu(x, x.new_zeros(1)),
                x**2,
                x.float() * x,
                x * torch.ones((), device=x.device),
            ),
            [x],
        )
    for rows, columns, inner in ((1, 1000, 2048), (197, 768, 768), (1024, 384, 96), (7, 13, 11), (4096, 4096, 64)):
        name = f"{rows}x{columns}x{inner}"
        yield (
            f"linear/{name}",
            lambda x, w, b: (
                functional.linear(x, w, b),
                functional.linear(x, w),
                functional.linear(x[None], w, b),
                functional.linear(x[None], w),
                functional.linear(x[None, None], w, b),
            ),
            [z(rows, inner), z(columns, inner), z(columns)],
        )
        yield (
            f"linear_strided/{name}",
            lambda x, w, b: (
                functional.linear(x[::2], w, b),
                functional.linear(x.t().contiguous().t(), w, b),
                functional.linear(x[:, ::2], w[:, ::2], b),
                functional.linear(torch.stack((x, x), 1), w, b),
                functional.linear(torch.stack((x, x)).transpose(0, 1), w, b),
            ),
            [z(rows, inner), z(columns, inner), z(columns)],
        )
        yield (
            f"matmul/{name}",
            lambda x, w: (
                x @ w.t(),
                x[None] @ w.t(),
                torch.stack((x, x)) @ w.t(),
                torch.stack((x, x)) @ torch.stack((w, w)).transpose(1, 2),
                torch.stack((x, x), 1).transpose(0, 1) @ w.t(),
                x[None, None] @ torch.stack((w, w)).transpose(1, 2)[None],
                x @ w[0],
                w[0] @ x.t(),
            ),
            [z(rows, inner), z(columns, inner)],
        )
        yield (
            f"addmm/{name}",
            lambda x, w, b: (
                torch.addmm(b, x, w.t()),
                torch.baddbmm(x.new_zeros(2, x.shape[0], w.shape[0]), torch.stack((x, x)), torch.stack((w, w)).transpose(1, 2)),
                torch.addmm(x.new_zeros(x.shape[0], w.shape[0]), x, w.t()),
                torch.addmv(b, w, x[0]),
            ),
            [z(rows, inner), z(columns, inner), z(columns)],
        )
        yield (
            f"bmm_strided/{name}",
            lambda x, w: (
                torch.bmm(torch.stack((x, x), 1).transpose(0, 1), torch.stack((w, w), 2).permute(2, 1, 0)),
                torch.bmm(torch.stack((x, x))[:, ::2], torch.stack((w, w), 1).permute(1, 2, 0)),
                torch.bmm(x[None, :, ::2], w[None, :, ::2].transpose(1, 2)),
            ),
            [z(rows, inner), z(columns, inner)],
        )
    for length, channels in ((100, 64), (3000, 80)):
        yield (
            f"conv1d/{length}x{channels}",
            lambda x: (
                functional.conv1d(x, x.new_zeros(32, x.shape[1], 3), padding=1),
                functional.conv1d(x, x.new_zeros(x.shape[1], 1, 5), groups=x.shape[1]),
                functional.conv1d(x, x.new_zeros(32, x.shape[1], 1)),
                functional.conv_transpose1d(x, x.new_zeros(x.shape[1], 8, 4), stride=2),
            ),
            [z(2, channels, length)],
        )
    yield (
        "conv3d",
        lambda x: (
            functional.conv3d(x, x.new_zeros(8, x.shape[1], 3, 3, 3), padding=1),
            functional.conv3d(x, x.new_zeros(8, x.shape[1], 1, 1, 1)),
            functional.max_pool3d(x, 2),
            functional.avg_pool3d(x, 2),
        ),
        [z(2, 16, 8, 32, 32)],
    )
    yield "fft", lambda x: (torch.fft.rfft2(x.float()), torch.fft.fft(x.float())), [z(4, 3, 64, 64)]
    yield (
        "embedding",
        lambda i, w: (
            functional.embedding(i, w),
            functional.one_hot(i, 100),
            torch.bucketize(i.float(), w[:, 0].float().contiguous()),
            torch.tril(w),
            torch.triu(w),
        ),
        [torch.zeros(4, 50, dtype=i64), z(100, 64)],
    )
    yield (
        "scatter",
        lambda x, i: (
            torch.zeros_like(x).scatter(1, i, x),
            torch.zeros_like(x).scatter_add(1, i, x),
            torch.zeros_like(x).index_add(0, i[:, 0], x),
            torch.zeros_like(x).index_put((i[:, 0],), x),
            x.repeat(2, 3),
            x.repeat_interleave(2, 0),
            x.expand(3, -1, -1).reshape(-1, 64),
        ),
        [z(50, 64), torch.zeros(50, 64, dtype=i64)],
    )
    yield (
        "complex",
        lambda x: (
            torch.polar(x.float(), x.float()),
            torch.view_as_complex(x.float().reshape(50, 32, 2)) * 2,
            torch.view_as_real(torch.complex(x.float(), x.float())),
        ),
        [z(50, 64)],
    )
    yield (
        "linalg",
        lambda x: (
            torch.linalg.inv(x.float()[:64] + torch.eye(64, device=x.device)),
            torch.cdist(x.float(), x.float()),
            torch.linalg.norm(x),
            torch.outer(x[0], x[0]),
        ),
        [z(70, 64)],
    )
    yield (
        "random",
        lambda x: (
            torch.rand_like(x),
            torch.randn(x.shape, device=x.device),
            torch.bernoulli(torch.full_like(x, 0.5)),
            torch.randperm(1000, device=x.device),
            torch.multinomial(torch.ones(10, 100, device=x.device), 3),
        ),
        [z(50, 64)],
    )
    yield (
        "arange",
        lambda x: (
            torch.arange(100, device=x.device),
            torch.linspace(0, 1, 33, device=x.device),
            torch.meshgrid(torch.arange(20, device=x.device), torch.arange(30, device=x.device), indexing="ij"),
            torch.full((3, 5), 2.0, device=x.device),
            torch.tensor([1.0, 2.0], device=x.device),
            x.new_tensor([3, 4]),
        ),
        [z(5, 5)],
    )


def detection() -> Iterator[tuple[str, Function, list[torch.Tensor]]]:
    """The ops of torchvision."""
    import torchvision

    ops = torchvision.ops
    boxes = lambda count: torch.rand(count, 4).cumsum(1)  # noqa: E731
    for count in (100, 1000, 8400):
        yield f"nms/{count}", lambda b, s: ops.nms(b.float(), s.float(), 0.5), [boxes(count), torch.rand(count)]
        yield (
            f"batched_nms/{count}",
            lambda b, s: ops.batched_nms(b.float(), s.float(), (s > 0.5).long(), 0.5),
            [boxes(count), torch.rand(count)],
        )
    yield (
        "roi_align",
        lambda x, b: (ops.roi_align(x, [b] * x.shape[0], 7), ops.roi_pool(x, [b] * x.shape[0], 7)),
        [torch.zeros(2, 64, 50, 50), boxes(100)],
    )
    yield (
        "deform",
        lambda x: ops.deform_conv2d(x, x.new_zeros(x.shape[0], 18, *x.shape[2:]), x.new_zeros(8, x.shape[1], 3, 3), padding=1),
        [torch.zeros(2, 16, 20, 20)],
    )
