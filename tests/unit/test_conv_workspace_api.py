import pytest

import vramplan as vp
from vramplan.errors import UsageError


def test_a_row_major_fp16_convolution_copies_its_operands():
    call = {"input_shape": (8, 64, 56, 56), "weight_shape": (64, 64, 3, 3)}
    answer = vp.conv_workspace(**call, dtype="fp16", padding=1, gpu="t4")
    copies = 2 * (8 * 64 * 56 * 56 + 64 * 64 * 3 * 3 + 8 * 64 * 56 * 56)  # input, weight and output, channels last
    assert answer.low_bytes <= copies <= answer.high_bytes
    assert answer.evidence is vp.Evidence.BOUNDED


def test_a_list_of_calls_is_a_list_of_ranges():
    calls = [
        {"input_shape": (1, 3, 64, 64), "weight_shape": (16, 3, 3, 3), "dtype": "float32", "stride": 2, "padding": (1, 1)},
        {"input_shape": (1, 64, 8, 8), "weight_shape": (64, 1, 3, 3), "dtype": "bf16", "groups": 64, "padding": 1},
    ]
    first, depthwise = vp.conv_workspace(calls, gpu="3090")
    assert first == vp.conv_workspace(**calls[0], gpu="3090")
    assert depthwise.high_bytes == 0  # bfloat16 depthwise runs on PyTorch's own kernel


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": 3}, "groups does not go with an input"),
        ({"dtype": "int8"}, "int8 are not modelled"),
        ({"memory_format": "nhwc"}, "unknown memory format"),
        ({"stride": (1, 1, 1)}, "not a convolution"),
    ],
)
def test_nonsense_is_one_clear_error(change, words):
    call = {"input_shape": (1, 8, 9, 9), "weight_shape": (4, 8, 3, 3)} | change
    with pytest.raises(UsageError, match=words):
        vp.conv_workspace(**call)
