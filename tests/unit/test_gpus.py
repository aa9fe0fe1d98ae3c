"""The catalogue holds together, names find their card, and memory is never guessed."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys

import pytest
from hypothesis import given, strategies

from vramplan.errors import InternalError, UsageError
from vramplan.gpus import (
    RUNTIMES,
    Gpu,
    all_gpus,
    bare_context_bytes,
    context_bytes,
    context_readings,
    context_reason,
    custom_gpu,
    find_gpu,
    inline_ecc_by_default,
    parse_catalogue,
    usable_bytes,
    usable_reason,
)
from vramplan.ranges import Evidence
from vramplan.units import GIB, MIB

every_gpu = pytest.mark.parametrize("gpu", all_gpus(), ids=lambda gpu: gpu.key)


# The catalogue


def test_all_rows_parse_and_keys_are_unique() -> None:
    gpus = all_gpus()
    assert len(gpus) == 118
    assert len({gpu.key for gpu in gpus}) == len({gpu.name for gpu in gpus}) == 118


def test_the_catalogue_is_read_once() -> None:
    assert all_gpus() is all_gpus()


@every_gpu
def test_sizes_shrink_from_the_box_to_cuda(gpu: Gpu) -> None:
    shown = gpu.nvidia_smi_total_bytes or gpu.vram_marketed_bytes
    assert gpu.vram_marketed_bytes >= shown >= (gpu.cuda_visible_total_bytes or 0)
    assert gpu.vram_marketed_bytes % GIB == 0
    assert (gpu.nvidia_smi_total_bytes is None) == (gpu.nvidia_smi_confidence is None)


@every_gpu
def test_nvidia_smi_shows_the_box_less_inline_ecc_to_six_per_mille(gpu: Gpu) -> None:
    if gpu.nvidia_smi_total_bytes is not None:
        board = gpu.vram_marketed_bytes * 15 // 16 if inline_ecc_by_default(gpu) else gpu.vram_marketed_bytes
        assert 0 <= board - gpu.nvidia_smi_total_bytes <= 0.006 * board


@every_gpu
def test_computed_tensor_rates_are_sm_times_clock_times_rate(gpu: Gpu) -> None:
    computed = re.fullmatch(r"computed SM\*boost\*(\d+) FLOP/clk/SM", gpu.tensor_basis or "")
    if computed and gpu.sm_count and gpu.boost_mhz:
        fp16_tflops = gpu.sm_count * gpu.boost_mhz * int(computed.group(1)) / 1e6
        assert gpu.fp16_dense_tflops == pytest.approx(fp16_tflops, rel=0.01)
        assert gpu.int8_dense_tops == pytest.approx(2 * fp16_tflops, rel=0.01)


@every_gpu
def test_rates_keep_their_ratios(gpu: Gpu) -> None:
    fp16_tflops = gpu.fp16_dense_tflops
    if fp16_tflops is not None and "no tensor cores" not in (gpu.tensor_basis or ""):
        accumulated = 0.5 if gpu.family == "geforce" else 1
        assert gpu.fp16_fp32acc_dense_tflops == pytest.approx(accumulated * fp16_tflops, rel=0.01)
        if "no INT8 tensor" not in (gpu.tensor_basis or ""):
            assert gpu.int8_dense_tops == pytest.approx(2 * fp16_tflops, rel=0.015)
    if gpu.fp8_dense_tflops is not None:
        assert gpu.fp8_dense_tflops == pytest.approx(gpu.int8_dense_tops)
        assert gpu.architecture in ("Ada Lovelace", "Hopper", "Blackwell")


@every_gpu
def test_fp32_is_cores_times_clock_times_two(gpu: Gpu) -> None:
    cores_per_sm = 128 if gpu.compute_capability not in ("6.0", "7.0", "7.2", "7.5", "8.0") else 64
    if gpu.sm_count and gpu.boost_mhz and gpu.fp32_tflops:
        assert gpu.fp32_tflops == pytest.approx(gpu.sm_count * cores_per_sm * 2 * gpu.boost_mhz / 1e6, rel=0.04)


@every_gpu
def test_unified_memory_means_no_pcie_and_no_nvidia_smi_total(gpu: Gpu) -> None:
    assert gpu.unified_memory == (gpu.family in ("jetson", "unified-desktop"))
    assert gpu.unified_memory == (gpu.pcie_generation is None) == (gpu.pcie_lane_count is None)
    assert gpu.pcie_lane_count in (None, 8, 16)
    assert gpu.nvidia_smi_total_bytes is None or not gpu.unified_memory


@every_gpu
def test_every_row_names_its_sources_in_public_words(gpu: Gpu) -> None:
    assert gpu.source.startswith("specifications: ")
    assert ("CUDA-visible: " in gpu.source) == (gpu.cuda_visible_total_bytes is not None)
    assert ("nvidia-smi: " in gpu.source) == (gpu.nvidia_smi_total_bytes is not None)
    assert not re.search(r"catalog\.md|third-party listing|\bSK\b|\s\(\s*\)|:\s*(\||$)", f"{gpu.source} {gpu.notes}")


@every_gpu
def test_decoders_are_known_by_count_or_left_blank(gpu: Gpu) -> None:
    assert (gpu.nvdec_count is None) == ("count not found" in gpu.source)
    assert gpu.nvdec_confidence in (None, "low", "medium", "high")
    assert gpu.nvdec_table_row in (None, "pascal", "turing", "ampere", "ada", "blackwell", "jetson_thor")
    if gpu.family == "jetson" and gpu.architecture != "Blackwell":
        assert gpu.nvdec_table_row is None


def test_inline_ecc_takes_a_sixteenth_of_a_t4() -> None:
    assert find_gpu("t4").nvidia_smi_total_bytes == 16384 * 15 // 16 * MIB == 15360 * MIB


def test_known_datasheet_values() -> None:
    assert find_gpu("rtx 3090").memory_bandwidth_gb_s == 936.2
    assert find_gpu("rtx 4090").memory_bandwidth_gb_s == pytest.approx(384 * 21 / 8, rel=0.001)
    assert find_gpu("rtx 5090").memory_bandwidth_gb_s == 512 * 28 / 8
    assert find_gpu("a100 pcie 80gb").memory_bandwidth_gb_s == pytest.approx(1935, abs=1)
    assert find_gpu("t4").int8_dense_tops == 130
    assert find_gpu("a100 sxm 80gb").nvdec_count == 5
    assert find_gpu("h200").vram_marketed_bytes == 141 * GIB
    assert find_gpu("h200").cuda_visible_total_bytes == 150_109_880_320


def _catalogue_text(**cells: str) -> str:
    """A catalogue of one row: a T4 of which *cells* are replaced."""
    row = {"key": "t4", "name": "NVIDIA Tesla T4", "family": "datacenter", "vram_marketed_gib": "16", "unified_memory": "no"}
    header = (
        "key,name,family,architecture,compute_capability,sm_count,boost_mhz,memory_type,vram_marketed_gib,"
        "nvidia_smi_total_mib,nvidia_smi_confidence,cuda_visible_total_mib,unified_memory,memory_bandwidth_gb_s,"
        "fp32_tflops,fp16_dense_tflops,fp16_fp32acc_dense_tflops,int8_dense_tops,fp8_dense_tflops,tensor_basis,"
        "pcie_generation,pcie_lane_count,nvdec_generation,nvdec_count,nvdec_confidence,nvdec_table_row,"
        "video_clock_max_mhz,h264_1080p30_stream_count,h265_1080p30_stream_count,notes,source"
    )
    row |= {"source": "specifications: a test"} | cells
    return header + "\n" + ",".join(row.get(column, "") for column in header.split(",")) + "\n"


def test_a_blank_cell_is_unknown() -> None:
    (gpu,) = parse_catalogue(_catalogue_text())
    assert gpu.sm_count is None
    assert gpu.cuda_visible_total_bytes is None


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("sm_count", "many"),
        ("sm_count", "0"),
        ("sm_count", "-1"),
        ("boost_mhz", "nan"),
        ("boost_mhz", "-5"),
        ("unified_memory", "coherent"),
        ("unified_memory", ""),
        ("vram_marketed_gib", ""),
        ("cuda_visible_total_mib", "0.3"),
        ("key", ""),
        ("source", ""),
    ],
)
def test_a_broken_cell_names_its_row_and_column(column: str, text: str) -> None:
    with pytest.raises(InternalError, match=rf"line 2, column {column}"):
        parse_catalogue(_catalogue_text(**{column: text}))


def test_broken_tables_are_refused() -> None:
    good = _catalogue_text()
    with pytest.raises(InternalError, match="unexpected columns"):
        parse_catalogue(good.replace("boost_mhz", "boost"))
    with pytest.raises(InternalError, match="number of cells"):
        parse_catalogue(good.rstrip() + ",extra\n")
    with pytest.raises(InternalError, match="twice"):
        parse_catalogue(good + good.splitlines()[1] + "\n")
    with pytest.raises(InternalError, match="must not grow"):
        parse_catalogue(_catalogue_text(nvidia_smi_total_mib="15360", cuda_visible_total_mib="15361"))


def test_the_catalogue_needs_no_heavy_imports() -> None:
    heavy = "{'numpy', 'pandas', 'torch', 'onnx'}"
    code = f"import sys; from vramplan.gpus import find_gpu; find_gpu('3090'); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Names


@every_gpu
def test_a_card_is_found_by_its_key_and_by_its_name(gpu: Gpu) -> None:
    assert find_gpu(gpu.key) is gpu
    assert find_gpu(gpu.name) is gpu
    assert find_gpu(gpu.name.upper()) is gpu


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("3090", "rtx3090"),
        ("rtx 3090", "rtx3090"),
        ("RTX3090", "rtx3090"),
        ("rtx-3090", "rtx3090"),
        ("nvidia geforce rtx 3090", "rtx3090"),
        ("3090 ti", "rtx3090ti"),
        ("3080", "rtx3080"),
        ("3080 12gb", "rtx3080-12gb"),
        ("3080 10 GB", "rtx3080"),
        ("4060", "rtx4060"),
        ("4060ti 16gb", "rtx4060ti-16gb"),
        ("4060 Ti 16 GiB", "rtx4060ti-16gb"),
        ("4070 ti super", "rtx4070tisuper"),
        ("3060 laptop", "rtx3060-laptop"),
        ("t4", "t4"),
        ("tesla t4", "t4"),
        ("l4", "l4"),
        ("l40", "l40"),
        ("a10", "a10"),
        ("a100-40gb", "a100-pcie-40gb"),
        ("a100 80gb", "a100-pcie-80gb"),
        ("h200", "h200-sxm"),
        ("rtx a5000", "rtxa5000"),
        ("a5000", "rtxa5000"),
        ("orin nano", "jetson-orin-nano-8gb"),
        ("agx orin 64", "jetson-agx-orin-64gb"),
        ("dgx spark", "dgx-spark-gb10"),
    ],
)
def test_what_people_type(name: str, key: str) -> None:
    assert find_gpu(name).key == key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA GeForce GTX 1060 6GB", "gtx1060"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "rtx3060-laptop"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200-sxm"),
        ("Tesla V100-SXM2-32GB", "v100-sxm2-32gb"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtxpro6000bw"),
        ("Quadro RTX 6000", "quadrortx6000"),
        ("NVIDIA GB10", "dgx-spark-gb10"),
    ],
)
def test_what_the_driver_calls_them(name: str, key: str) -> None:
    assert find_gpu(name).key == key


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("a100", "a100-pcie-40gb, a100-sxm-40gb, a100-pcie-80gb, a100-sxm-80gb"),
        ("h100", "h100-pcie, h100-sxm, h100-nvl"),
        ("4060ti", "rtx4060ti-8gb, rtx4060ti-16gb"),
        ("rtx 6000", "rtx6000ada, rtxpro6000bw, quadrortx6000"),
    ],
)
def test_memory_is_never_guessed(name: str, listed: str) -> None:
    with pytest.raises(UsageError, match=listed) as caught:
        find_gpu(name)
    assert "--vram 24GiB" in caught.value.hint


def test_a_long_list_is_cut_at_eight() -> None:
    with pytest.raises(
        UsageError, match=r"can mean 14 cards: (jetson-[a-z0-9-]+, ){7}jetson-[a-z0-9-]+ and 6 more\n"
    ) as caught:
        find_gpu("jetson")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "near"), [("rtx 3091", "rtx3090"), ("gtx 3090", "rtx3090"), ("l400s", "l40s")])
def test_an_unknown_card_lists_close_ones(name: str, near: str) -> None:
    with pytest.raises(UsageError, match="unknown GPU") as caught:
        find_gpu(name)
    assert near in caught.value.hint
    assert "--vram 24GiB" in caught.value.hint


@pytest.mark.parametrize("name", ["", " ", "...", "nvidia", "radeon 7900 xtx", "x" * 10_000])
def test_no_card_is_meant(name: str) -> None:
    with pytest.raises(UsageError, match="unknown GPU") as caught:
        find_gpu(name)
    assert len(caught.value.message) < 120


@given(strategies.text(max_size=40))
def test_any_text_is_a_card_or_a_usage_error(name: str) -> None:
    with contextlib.suppress(UsageError):
        assert find_gpu(name) in all_gpus()


# Memory that CUDA can use


@every_gpu
def test_usable_memory_lies_within_the_card(gpu: Gpu) -> None:
    usable = usable_bytes(gpu)
    assert 0.4 * gpu.vram_marketed_bytes < usable.low_bytes
    assert usable.high_bytes <= gpu.vram_marketed_bytes
    assert usable_reason(gpu).endswith(".")


def test_a_quoted_total_is_taken_as_it_is() -> None:
    usable = usable_bytes(find_gpu("3090"))
    assert usable.nominal_bytes == 24124 * MIB
    assert usable.low_bytes == (24124 - 130) * MIB
    assert usable.evidence is Evidence.CATALOGUE


def test_from_nvidia_smi_what_the_driver_keeps_is_subtracted() -> None:
    usable = usable_bytes(find_gpu("rtx 3060"))
    assert usable.high_bytes == (12288 - 81) * MIB
    assert usable.low_bytes == (12288 - 769) * MIB
    assert usable.evidence is Evidence.BOUNDED


def test_the_nominal_follows_cards_of_like_size() -> None:
    small, large = find_gpu("rtx 3070 ti"), find_gpu("a100 pcie 80gb")
    kept_small = small.nvidia_smi_total_bytes - usable_bytes(small).nominal_bytes  # type: ignore[operator]
    kept_large = large.nvidia_smi_total_bytes - usable_bytes(large).nominal_bytes  # type: ignore[operator]
    assert kept_small == 215 * MIB  # the RTX 3070's: 8192 - 7977, the median of the seven nearest
    assert kept_large > 2 * kept_small


def test_inline_ecc_is_on_by_default_on_gddr_boards_of_the_data_centre_only() -> None:
    with_ecc = {gpu.key for gpu in all_gpus() if inline_ecc_by_default(gpu)}
    assert with_ecc == {"p4", "p40", "t4", "a2", "a10", "a10g", "a16", "a40", "l4", "l20", "l40", "l40s"}


def test_a_marketed_size_alone_loses_ecc_at_the_low_end_and_not_at_the_high_end() -> None:
    usable = usable_bytes(find_gpu("a16"))
    assert usable.nominal_bytes < 16 * GIB * 15 // 16 < usable.high_bytes < 16 * GIB
    assert "ECC" in usable_reason(find_gpu("a16"))
    assert "ECC" not in usable_reason(find_gpu("rtx 4060"))


@every_gpu
def test_each_rule_would_have_held_where_a_better_fact_is_known(gpu: Gpu) -> None:
    """Forget what CUDA sees, and what nvidia-smi shows: the ranges still contain it."""
    if gpu.cuda_visible_total_bytes is None or gpu.unified_memory:
        return
    facts = {name: getattr(gpu, name) for name in Gpu.__dataclass_fields__} | {"cuda_visible_total_bytes": None}
    for forgotten in (facts, facts | {"nvidia_smi_total_bytes": None}):
        usable = usable_bytes(Gpu(**forgotten))
        assert usable.low_bytes <= gpu.cuda_visible_total_bytes <= usable.high_bytes


def test_shared_memory_leaves_room_for_the_system() -> None:
    nano = find_gpu("orin nano")
    usable = usable_bytes(nano)
    assert usable.nominal_bytes == (7619 - 1024) * MIB
    assert usable.high_bytes == (7619 - 512) * MIB
    assert usable.evidence is Evidence.ASSUMED
    assert "operating system" in usable_reason(nano)


def test_a_custom_card_is_as_large_as_it_was_said_to_be() -> None:
    gpu = custom_gpu(24 * GIB)
    usable = usable_bytes(gpu)
    assert gpu.name == "24.0 GiB card"
    assert usable.low_bytes == usable.high_bytes == 24 * GIB
    assert usable.evidence is Evidence.ASSUMED
    for size_bytes in (0, -1, 1 << 61):
        with pytest.raises(UsageError):
            custom_gpu(size_bytes)


# What a process takes


def test_pytorch_on_the_h200_is_as_measured() -> None:
    h200 = find_gpu("h200")
    convolutions = context_bytes(h200, "torch", uses_gemm=False)
    matrices = context_bytes(h200, "torch", uses_gemm=True)
    unknown = context_bytes(h200, "torch")
    assert convolutions.low_bytes == convolutions.high_bytes == 703_397_888 - 44_040_192
    assert matrices.low_bytes == matrices.high_bytes == 804_061_184 - 77_594_624
    assert (unknown.low_bytes, unknown.high_bytes) == (convolutions.low_bytes, matrices.high_bytes)
    assert unknown.evidence is Evidence.MEASURED
    assert matrices.low_bytes - convolutions.low_bytes == 64 * MIB


def test_tensorrt_on_the_h200_lies_between_a_bare_context_and_pytorch() -> None:
    tensorrt = context_bytes(find_gpu("h200"), "tensorrt")
    assert (tensorrt.low_bytes, tensorrt.high_bytes) == (552_402_944, 726_466_560)
    assert tensorrt.evidence is Evidence.BOUNDED


def test_onnxruntime_on_the_h200_is_a_session_less_its_initializers() -> None:
    onnxruntime = context_bytes(find_gpu("h200"), "onnxruntime")
    assert onnxruntime.low_bytes == 644_677_632 - 12_588_224
    assert onnxruntime.low_bytes < onnxruntime.nominal_bytes == 688_717_824 - 51_015_888
    assert onnxruntime.evidence is Evidence.MEASURED


@pytest.mark.parametrize(("name", "read_mib"), [("h200", 526.8), ("rtx 6000 ada", 426), ("rtx 3090", 256)])
def test_a_bare_context_is_two_kib_a_resident_thread(name: str, read_mib: float) -> None:
    bare = bare_context_bytes(find_gpu(name))
    assert bare is not None
    assert bare / MIB == pytest.approx(read_mib, rel=0.045)


def test_the_rule_in_figures() -> None:
    assert bare_context_bytes(find_gpu("h200")) == 132 * 2048 * 2048
    assert bare_context_bytes(find_gpu("t4")) == 40 * 1024 * 2048


def test_every_published_reading_lies_in_its_range() -> None:
    for reading in context_readings():
        span = context_bytes(find_gpu(reading.gpu_key), "torch")
        if reading.evidence is Evidence.CATALOGUE:
            assert span.low_bytes <= reading.context_bytes <= span.high_bytes, reading
            assert span.evidence is Evidence.BOUNDED


def test_an_h100_takes_what_an_h200_does_as_the_rule_says() -> None:
    h100, h200 = find_gpu("h100-sxm"), find_gpu("h200")
    assert bare_context_bytes(h100) == bare_context_bytes(h200)  # both have 132 SM of 2,048 threads
    assert context_bytes(h100, "torch") == context_bytes(h200, "torch")
    assert context_bytes(h100, "torch", uses_gemm=True).nominal_bytes == 783_089_664 - 56_623_104


def test_only_two_cards_are_measured() -> None:
    measured = {
        gpu.key for gpu in all_gpus() for runtime in RUNTIMES if context_bytes(gpu, runtime).evidence is Evidence.MEASURED
    }
    assert measured == {"h200-sxm", "h100-sxm"}


@every_gpu
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_card_and_runtime_has_a_context_and_a_reason(gpu: Gpu, runtime: str) -> None:
    span = context_bytes(gpu, runtime)
    assert MIB < span.low_bytes < span.nominal_bytes <= span.high_bytes < GIB
    assert context_reason(gpu, runtime).endswith(".")
    assert (span.evidence is Evidence.ASSUMED) == gpu.unified_memory


def test_a_custom_card_gets_the_span_of_the_catalogue() -> None:
    custom = context_bytes(custom_gpu(24 * GIB), "torch")
    for gpu in all_gpus():
        if not gpu.unified_memory:
            span = context_bytes(gpu, "torch")
            assert custom.low_bytes <= span.low_bytes <= span.high_bytes <= custom.high_bytes
    assert custom.evidence is Evidence.ASSUMED


def test_an_unknown_runtime_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown runtime") as caught:
        context_bytes(find_gpu("t4"), "tensort")
    assert "tensorrt" in caught.value.hint
