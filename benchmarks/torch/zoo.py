"""The PyTorch models that accuracy is judged on: built with random weights from torchvision, timm, transformers and our zoo.

`GUIDED` were looked at while rules were written; `JUDGED` were measured with them, but no rule was made from their rows.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from cases import Case, cases, detection
from vramplan.models import yolo11, yolov5, yolov8  # not under `on_meta`: their constants would lie there

Built = tuple[nn.Module, Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]]
"""A module in fp32 on the CPU, and what makes its example inputs for a batch."""

GUIDED = (
    "zoo/yolov8s", "zoo/yolov5s", "zoo/yolo11n", "tv/resnet50", "tv/mobilenet_v3_large", "tv/efficientnet_b0",
    "tv/convnext_tiny", "tv/swin_t", "tv/vit_b_16", "tv/densenet121", "tv/regnet_y_1_6gf", "tv/shufflenet_v2_x1_0",
    "tv/googlenet", "tv/maxvit_t", "tv/deeplabv3_resnet50", "timm/resnext50_32x4d", "timm/deit_small_patch16_224",
    "timm/beit_base_patch16_224", "timm/coatnet_0_rw_224", "timm/mobilevit_s", "timm/mixer_s16_224", "timm/poolformer_s12",
    "timm/pvt_v2_b1", "timm/xcit_small_12_p16_224", "timm/hrnet_w18", "hf/bert", "hf/segformer", "hf/gpt2", "hf/llama",
    "hf/clip", "hf/whisper",
)  # fmt: skip

JUDGED = (
    "zoo/yolov8n", "tv/vgg16", "tv/swin_v2_t", "tv/lraspp_mobilenet_v3_large", "tv/inception_v3", "tv/squeezenet1_1",
    "timm/convnextv2_tiny", "timm/edgenext_small", "timm/efficientformer_l1", "timm/levit_128s", "timm/cait_xxs24_224",
    "timm/ghostnet_100", "timm/res2net50_26w_4s", "timm/dla34", "timm/repvgg_a0", "timm/nfnet_f0",
    "timm/eva02_tiny_patch14_224", "hf/roberta", "hf/dinov2", "hf/t5", "hf/detr", "hf/swin", "hf/yolos",
)  # fmt: skip

FRESH = (
    "zoo/yolov5m", "zoo/yolo11s", "tv/efficientnet_v2_s", "tv/mnasnet1_0", "tv/resnext50_32x4d", "tv/convnext_small",
    "tv/fcn_resnet50", "timm/convformer_s18", "timm/davit_tiny", "timm/mvitv2_tiny", "timm/cspdarknet53",
    "timm/tf_efficientnet_lite0", "timm/crossvit_9_240", "timm/fastvit_t8", "timm/vit_small_patch32_224", "hf/electra",
    "hf/deit", "hf/qwen2", "hf/bart",
)  # fmt: skip
"""Measured after the rules were written: nobody looked at them before."""

BLIND = (
    "zoo/yolov8l", "zoo/yolov5n", "zoo/yolo11m", "tv/regnet_x_8gf", "tv/shufflenet_v2_x0_5", "tv/vgg13_bn",
    "tv/deeplabv3_resnet101", "tv/efficientnet_v2_l", "timm/twins_svt_small", "timm/pit_s_224", "timm/convit_tiny",
    "timm/volo_d1_224", "timm/gcvit_xxtiny", "timm/nest_tiny", "timm/gmlp_s16_224", "timm/resmlp_12_224",
    "timm/efficientnetv2_rw_t", "timm/repvit_m1", "timm/mambaout_tiny", "timm/hiera_tiny_224", "timm/swinv2_cr_tiny_224",
    "timm/resnext26ts", "timm/eca_nfnet_l0", "timm/regnetz_b16", "timm/fasternet_t1", "timm/shvit_s1", "timm/rdnet_tiny",
    "timm/efficientformerv2_s1", "timm/semnasnet_100", "timm/cs3darknet_m", "hf/distilbert", "hf/albert", "hf/mistral",
    "hf/opt", "hf/wav2vec2", "hf/dpt", "hf/mobilevit", "hf/siglip",
)  # fmt: skip
"""Chosen before anything of them was measured or predicted, and measured after the rules for `FRESH` were changed again."""

PROBES = ("probe/lstm", "probe/encoder", "probe/mha", "probe/unet", "probe/conv3d", "probe/gru_half")
"""Small modules for the roads that the others do not take."""


def build(name: str) -> Built:
    """The model called *name*, random weights, eval mode."""
    family, _, model = name.partition("/")
    torch.manual_seed(0)
    if family == "case":
        function, inputs = _cases()[model]
        return Case(function).eval(), lambda _: (tuple(inputs), {})
    module, inputs = {"zoo": _zoo, "tv": _torchvision, "timm": _timm, "hf": _transformers, "probe": _probe}[family](model)
    return module.eval(), inputs


def on_meta(name: str) -> Built:
    """The same on the meta device where the model allows it: faster, and the same program."""
    try:
        with torch.device("meta"):
            return build(name)
    except (NotImplementedError, RuntimeError):
        return build(name)


@functools.cache
def _cases() -> dict[str, tuple[Callable[..., Any], list[torch.Tensor]]]:
    return {name: (function, inputs) for name, function, inputs in itertools.chain(cases(), detection())}


def case_names() -> tuple[str, ...]:
    """Every single-op case."""
    return tuple(f"case/{name}" for name in _cases())


def _images(*shape: int) -> Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]:
    return lambda batch: ((torch.zeros(batch, *shape),), {})


def _zoo(model: str) -> Built:
    module = {"yolov8": yolov8, "yolov5": yolov5, "yolo11": yolo11}[model.rstrip("nsmlx")]
    return getattr(module, model)(), _images(3, 640, 640)


def _torchvision(model: str) -> Built:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if "deeplab" in model or "lraspp" in model or "fcn" in model:
        options["weights_backbone"] = None
    if model in {"googlenet", "inception_v3"}:
        options |= {"aux_logits": False, "init_weights": False}
    built = getattr(torchvision.models, model, None) or getattr(torchvision.models.segmentation, model)
    size = {
        "swin_v2_t": 256,
        "inception_v3": 299,
        "deeplabv3_resnet50": 520,
        "fcn_resnet50": 520,
        "lraspp_mobilenet_v3_large": 520,
    }.get(model, 224)
    return built(**options), _images(3, size, size)


def _timm(model: str) -> Built:
    import timm

    module = timm.create_model(model, pretrained=False)
    return module, _images(*module.default_cfg["input_size"])


def _tokens(name: str, length: int, **more: Any) -> Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]:
    return lambda batch: (
        (),
        {name: torch.ones(batch, length, dtype=torch.int64)} | {key: value(batch) for key, value in more.items()},
    )


def _pixels(*shape: int, **more: Any) -> Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]:
    return lambda batch: (
        (),
        {"pixel_values": torch.zeros(batch, *shape)} | {key: value(batch) for key, value in more.items()},
    )


def _ids(length: int) -> Callable[[int], torch.Tensor]:
    return lambda batch: torch.ones(batch, length, dtype=torch.int64)


def _transformers(model: str) -> Built:
    import transformers as hf

    if model == "llama":
        config = hf.LlamaConfig(
            hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
            vocab_size=32000,
        )  # fmt: skip
        return hf.LlamaForCausalLM(config), _tokens("input_ids", 256)
    if model == "detr":
        backbone = hf.ResNetConfig(out_features=["stage4"])
        config = hf.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone)
        return hf.DetrForObjectDetection(config), _pixels(3, 480, 640)
    if model == "whisper":
        config = hf.WhisperConfig(
            d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6, decoder_attention_heads=6,
            encoder_ffn_dim=1536, decoder_ffn_dim=1536,
        )  # fmt: skip
        features = lambda batch: ((), {"input_features": torch.zeros(batch, 80, 3000), "decoder_input_ids": _ids(32)(batch)})  # noqa: E731
        return hf.WhisperModel(config), features
    small = {"num_hidden_layers": 6}
    if model == "qwen2":
        config = hf.Qwen2Config(
            hidden_size=448, intermediate_size=1216, num_hidden_layers=4, num_attention_heads=7, num_key_value_heads=1,
            vocab_size=32000,
        )  # fmt: skip
        return hf.Qwen2ForCausalLM(config), _tokens("input_ids", 192)
    if model == "bart":
        config = hf.BartConfig(d_model=512, encoder_layers=3, decoder_layers=3, encoder_ffn_dim=2048, decoder_ffn_dim=2048)
        return hf.BartModel(config), _tokens("input_ids", 160, decoder_input_ids=_ids(24))
    return {
        "distilbert": lambda: (hf.DistilBertModel(hf.DistilBertConfig(n_layers=4)), _tokens("input_ids", 144)),
        "albert": lambda: (
            hf.AlbertModel(hf.AlbertConfig(hidden_size=768, num_attention_heads=12, **small)),
            _tokens("input_ids", 80),
        ),
        "mistral": lambda: (
            hf.MistralForCausalLM(
                hf.MistralConfig(
                    hidden_size=512,
                    intermediate_size=1536,
                    num_hidden_layers=3,
                    num_attention_heads=8,
                    num_key_value_heads=4,
                    vocab_size=16000,
                )
            ),
            _tokens("input_ids", 224),
        ),
        "opt": lambda: (hf.OPTForCausalLM(hf.OPTConfig(vocab_size=16000, **small)), _tokens("input_ids", 176)),
        "wav2vec2": lambda: (
            hf.Wav2Vec2Model(hf.Wav2Vec2Config(**small)),
            lambda batch: ((), {"input_values": torch.zeros(batch, 24000)}),
        ),
        "dpt": lambda: (hf.DPTForDepthEstimation(hf.DPTConfig()), _pixels(3, 384, 384)),
        "mobilevit": lambda: (hf.MobileViTModel(hf.MobileViTConfig()), _pixels(3, 256, 256)),
        "siglip": lambda: (hf.SiglipVisionModel(hf.SiglipVisionConfig(**small)), _pixels(3, 224, 224)),
        "electra": lambda: (hf.ElectraModel(hf.ElectraConfig(**small)), _tokens("input_ids", 96, attention_mask=_ids(96))),
        "deit": lambda: (hf.DeiTModel(hf.DeiTConfig(**small)), _pixels(3, 224, 224)),
        "bert": lambda: (hf.BertModel(hf.BertConfig(**small)), _tokens("input_ids", 128, attention_mask=_ids(128))),
        "roberta": lambda: (hf.RobertaModel(hf.RobertaConfig(max_position_embeddings=514, **small)), _tokens("input_ids", 200)),
        "gpt2": lambda: (hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=6)), _tokens("input_ids", 256)),
        "t5": lambda: (
            hf.T5Model(hf.T5Config(num_layers=4, feed_forward_proj="gated-gelu")),
            _tokens("input_ids", 128, decoder_input_ids=_ids(16)),
        ),
        "segformer": lambda: (hf.SegformerForSemanticSegmentation(hf.SegformerConfig()), _pixels(3, 512, 512)),
        "clip": lambda: (hf.CLIPModel(hf.CLIPConfig()), _pixels(3, 224, 224, input_ids=_ids(77))),
        "dinov2": lambda: (hf.Dinov2Model(hf.Dinov2Config(**small)), _pixels(3, 224, 224)),
        "swin": lambda: (hf.SwinModel(hf.SwinConfig()), _pixels(3, 224, 224)),
        "yolos": lambda: (
            hf.YolosForObjectDetection(hf.YolosConfig(image_size=[512, 864], num_hidden_layers=4)),
            _pixels(3, 512, 864),
        ),
    }[model]()


class _Lstm(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 128)
        self.rnn = kind(128, 256, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.rnn(self.embed(x))
        result: torch.Tensor = self.head(y[:, -1])
        return result


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(256, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, weights = self.attention(x, x, x, need_weights=True)
        result: torch.Tensor = y + weights.mean()
        return result


class _UNet(nn.Module):
    """Transposed convolutions, group norm, instance norm, interpolation, dilation, depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.GroupNorm(8, 32), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 2, dilation=2), nn.InstanceNorm2d(64), nn.GELU())
        self.depthwise = nn.Conv2d(64, 64, 5, padding=2, groups=64)
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.last = nn.ConvTranspose2d(64, 16, 4, 2, 1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.down(x)
        y = self.depthwise(self.deep(skip))
        y = torch.cat((nn.functional.interpolate(self.up(y), size=skip.shape[2:], mode="bilinear"), skip), 1)
        result: torch.Tensor = self.head(self.last(y)).softmax(1)
        return result


def _probe(model: str) -> Built:
    if model in {"lstm", "gru_half"}:
        kind = nn.LSTM if model == "lstm" else nn.GRU
        return _Lstm(kind), lambda batch: ((torch.ones(batch, 50, dtype=torch.int64),), {})
    if model == "encoder":
        layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
        return nn.TransformerEncoder(layer, 3), _images(100, 256)
    if model == "mha":
        return _Attention(), _images(60, 256)
    if model == "unet":
        return _UNet(), _images(3, 256, 256)
    return nn.Sequential(nn.Conv3d(3, 16, 3, 2, 1), nn.BatchNorm3d(16), nn.ReLU(), nn.AdaptiveAvgPool3d(2)), _images(
        3, 8, 64, 64
    )
