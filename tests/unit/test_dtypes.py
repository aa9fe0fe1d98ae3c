import pytest

from vramplan.dtypes import DType, parse_dtype
from vramplan.errors import UsageError


def test_aliases_name_the_same_type():
    assert parse_dtype("fp16") is parse_dtype("half") is parse_dtype("torch.float16") is DType.FLOAT16


def test_four_bit_types_pack_two_to_a_byte_and_round_up():
    assert DType.INT4.storage_bytes(6) == 3
    assert DType.INT4.storage_bytes(7) == 4


def test_every_type_has_a_width():
    assert all(dtype.bits >= 0 for dtype in DType)
    assert DType.STRING.storage_bytes(1000) == 0


def test_only_real_floats_are_floats():
    assert {dtype.value for dtype in DType if dtype.is_float} == {
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
        "float8_e8m0", "float4_e2m1",
    }  # fmt: skip


def test_an_unknown_type_names_close_ones():
    with pytest.raises(UsageError) as caught:
        parse_dtype("flaot16")
    assert "float16" in caught.value.hint
