"""cuDNN in a child process: the protocol against children that misbehave, the cache, and the real libraries when present."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import conv_workspace as benchmark

from vramplan.dtypes import DType
from vramplan.folders import cache_folder
from vramplan.gpus.catalogue import all_gpus
from vramplan.gpus.lookup import find_gpu
from vramplan.ranges import Evidence
from vramplan.workspace import cudnn_devices
from vramplan.workspace.convolution import ConvCall, conv_workspace
from vramplan.workspace.cudnn import ConvWorkspaces, CudnnAnswers, CudnnFlags, conv_workspaces, header_version
from vramplan.workspace.cudnn_cache import CudnnCache
from vramplan.workspace.cudnn_libraries import installed_libraries, libraries_below, pinned_version
from vramplan.workspace.cudnn_process import CudnnProcess

H200 = find_gpu("h200")
VERSION = "print('{\"version\": 91900}', flush=True)"


def echo(act: str = "pass") -> str:
    """A child that answers the number of input channels, after it did *act*."""
    return f"""
import json, sys
{VERSION}
for line in sys.stdin:
    request = json.loads(line)
    {act}
    print(json.dumps({{"id": request["id"], "bytes": request["call"]["input_shape"][1]}}), flush=True)
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(tmp_path / "cache"))


def conv(channels: int, **others: Any) -> ConvCall:
    usual: dict[str, Any] = {"dtype": DType.FLOAT16, "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    return ConvCall(input_shape=(1, channels, 8, 8), weight_shape=(16, channels, 3, 3), **{**usual, **others})


def child(script: str, **limits: Any) -> CudnnProcess:
    return CudnnProcess([sys.executable, "-c", script], **limits)


def workspaces(process: CudnnProcess) -> ConvWorkspaces:
    answers = CudnnAnswers(process, device="{}", folder=cache_folder(), version=None)
    return ConvWorkspaces(H200, answers=answers)


def closed(call: ConvCall) -> int:
    return conv_workspace(call, (9, 0), 132).nominal_bytes


# The child


def test_answers_come_in_the_order_of_the_questions():
    process = child(echo())
    sizes = workspaces(process).of_many([conv(channels) for channels in range(8, 208)])
    assert [size.nominal_bytes for size in sizes] == list(range(8, 208))
    assert {size.evidence for size in sizes} == {Evidence.BOUNDED}
    process.stop()


def test_a_call_that_kills_the_child_costs_only_itself():
    process = child(echo("if request['call']['input_shape'][1] == 50: import os; os.abort()"))
    found = workspaces(process)
    calls = [conv(channels) for channels in range(8, 108)]
    sizes = [size.nominal_bytes for size in found.of_many(calls)]
    assert sizes == [closed(call) if call.input_shape[1] == 50 else call.input_shape[1] for call in calls]
    assert found.note.endswith("; 1 calls it did not answer are closed-form bounds.")
    process.stop()


def test_a_child_that_always_dies_is_left_alone():
    process = child(echo("import os; os._exit(3)"), most_deaths=2)
    calls = [conv(channels) for channels in range(8, 28)]
    assert [size.nominal_bytes for size in workspaces(process).of_many(calls)] == [closed(call) for call in calls]
    assert not process.start()


def test_a_child_that_hangs_is_ended_in_time():
    process = child(echo("import time; time.sleep(60)"), answer_s=0.3, most_deaths=2)
    start = time.monotonic()
    assert workspaces(process).of(conv(64)).nominal_bytes == closed(conv(64))
    assert time.monotonic() - start < 10
    process.stop()


@pytest.mark.parametrize(
    "garbage", ["print('no json')", "print('[1]')", 'print(\'{"id": 0, "bytes": -4}\')', 'print(\'{"id": 7, "bytes": 4}\')']
)
def test_garbage_is_no_answer(garbage: str):
    process = child(echo(garbage), most_deaths=1)
    assert workspaces(process).of(conv(64)).nominal_bytes == closed(conv(64))
    process.stop()


@pytest.mark.parametrize(
    "script", ["raise SystemExit(1)", "print('hello')", "print('{}')", "import os; os.abort()", "import time; time.sleep(60)"]
)
def test_a_child_that_does_not_start_leaves_the_closed_form(script: str):
    found = workspaces(child(script, start_s=1.5))
    assert found.of(conv(64)).nominal_bytes == closed(conv(64))
    assert found.note == "Convolution workspace is a closed-form bound: cuDNN is installed but did not start."


def test_no_such_program():
    assert workspaces(CudnnProcess(["/no/such/python"])).of(conv(64)).nominal_bytes == closed(conv(64))


def test_an_old_cudnn_is_named_and_not_asked():
    found = workspaces(child(VERSION.replace("91900", "90701") + "; input()"))
    assert found.of(conv(64)).nominal_bytes == closed(conv(64))
    assert (
        found.note == "Convolution workspace is a closed-form bound: cuDNN 9.7.1 needs a GPU to answer, 9.8 and later do not."
    )


def test_the_note_says_who_answered(monkeypatch):
    monkeypatch.setattr("vramplan.workspace.cudnn.pinned_version", lambda: None)
    process = child(echo())
    found = workspaces(process)
    found.of(conv(64))
    assert found.note == (
        "Convolution workspace is the answer of cuDNN 9.19.0 for NVIDIA H200 SXM 141 GB (description read from such a card)."
    )
    process.stop()


@pytest.mark.parametrize(("wanted", "says"), [("9.24.0", True), ("9.19.0", False), (None, False)])
def test_the_note_says_when_pytorch_runs_another_cudnn(monkeypatch, wanted, says):
    monkeypatch.setattr("vramplan.workspace.cudnn.pinned_version", lambda: wanted)
    process = child(echo())
    found = workspaces(process)
    found.of(conv(64))
    assert ("; your PyTorch runs cuDNN 9.24.0, which may ask for other workspaces." in found.note) is says
    process.stop()


def test_what_pytorch_asks_for_is_read_from_its_package(monkeypatch):
    pins = ["nvidia-cublas==13.1", 'nvidia-cudnn-cu13==9.24.0.43; platform_system == "Linux"']
    monkeypatch.setattr("vramplan.workspace.cudnn_libraries.metadata.requires", lambda _: pins)
    assert pinned_version.__wrapped__() == "9.24.0"
    monkeypatch.setattr("vramplan.workspace.cudnn_libraries.metadata.requires", lambda _: None)
    assert pinned_version.__wrapped__() is None


@pytest.mark.parametrize(
    ("flags", "told"), [(CudnnFlags(), 4), (CudnnFlags(tf32=False, deterministic=True), 1), (CudnnFlags(tf32=False), 0)]
)
def test_the_child_is_told_what_the_program_set(flags, told):
    """It answers what it was asked: 1 for deterministic, 4 for tensor cores in fp32."""
    answer = "call = request['call']; call['input_shape'][1] = 4 * call['tensor_cores'] + call['deterministic']"
    process = child(echo(answer))
    answers = CudnnAnswers(process, device="{}", folder=cache_folder(), version=None)
    assert ConvWorkspaces(H200, answers=answers, flags=flags).of(conv(64, dtype=DType.FLOAT32)).nominal_bytes == told
    process.stop()


def test_a_benchmark_takes_the_largest_workspace_once():
    reply = "{'id': request['id'], 'bytes': 500, 'least_bytes': 100, 'largest_bytes': 9_000_000_000}"
    process = child(echo(f"print(json.dumps({reply}), flush=True); continue"))
    answers = CudnnAnswers(process, device="{}", folder=cache_folder(), version=None)
    found = ConvWorkspaces(H200, answers=answers, flags=CudnnFlags(benchmark=True)).of(conv(64))
    assert (found.low_bytes, found.nominal_bytes, found.high_bytes) == (100, 9_000_000_000, 9_000_000_000)
    process.stop()


def test_no_gpu_no_libraries_or_an_old_gpu_mean_the_closed_form():
    for found in (conv_workspaces(None), conv_workspaces(H200, libraries=()), conv_workspaces(find_gpu("gtx1070"))):
        assert found.note.startswith("Convolution workspace is a closed-form bound; cuDNN, where installed, says more")
        assert found.of(conv(64)).nominal_bytes >= 0


def test_without_tf32_a_closed_form_in_fp32_has_no_tensor_core_copies():
    call = conv(64, dtype=DType.FLOAT32)
    assert conv_workspaces(None, flags=CudnnFlags(tf32=False)).of(call).nominal_bytes == 0


def test_without_tensor_cores_half_precision_has_no_copies_for_them_either():
    call = conv(64, dtype=DType.FLOAT16)
    assert conv_workspaces(None, flags=CudnnFlags(tf32=False)).of(call).nominal_bytes > 0
    assert conv_workspaces(None, flags=CudnnFlags(tensor_cores=False)).of(call).nominal_bytes == 0


def test_answers_of_kernels_that_share_tiles_keep_room_for_partial_sums():
    reply = {"bytes": 131, "engine": 67, "knobs": {"2": 0, "25": 0, "27": 8, "28": 1}, "unshared_bytes": 131}
    process = child(echo(f"print(json.dumps({reply} | {{'id': request['id']}}), flush=True); continue"))
    call = ConvCall(
        input_shape=(8, 320, 80, 80), weight_shape=(80, 320, 3, 3), dtype=DType.FLOAT32, channels_last=True,
        stride=(1, 1), padding=(1, 1), dilation=(1, 1),
    )  # fmt: skip
    size = workspaces(process).of(call)
    assert size.low_bytes == 131
    assert size.nominal_bytes == 131 + 40 * 3 * (128 * 128 * 4 + 4)
    assert size.high_bytes == 131 + 2 * 8 * 2**20
    process.stop()


# The cache


def test_a_second_process_answers_from_disk():
    process = child(echo())
    first = workspaces(process)
    first.of(conv(64))
    first.save()
    process.stop()
    answers = CudnnAnswers(CudnnProcess(["/no/such/python"]), device="{}", folder=cache_folder(), version=91900)
    assert ConvWorkspaces(H200, answers=answers).of(conv(64)).nominal_bytes == 64


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"format": 99, "replies": {"a": {"bytes": 1}}}', b'{"format": 1, "replies": 3}',
     b'{"format": 1, "replies": {"a": {"bytes": -1}, "b": 3, "c": {"bytes": 1, "knobs": {"x": 1}}}}', b"[" * 100_000],
)  # fmt: skip
def test_a_corrupt_cache_is_no_cache(tmp_path: Path, content: bytes):
    cache = CudnnCache(tmp_path, version=91900, device="d")
    cache.path.write_bytes(content)
    again = CudnnCache(tmp_path, version=91900, device="d")
    assert [again.get(key) for key in "abc"] == [None] * 3
    again.add({"a": {"bytes": 7}})
    assert CudnnCache(tmp_path, version=91900, device="d").get("a") is None  # not before it is saved
    again.save()
    assert CudnnCache(tmp_path, version=91900, device="d").get("a") == {"bytes": 7}


def test_versions_and_devices_do_not_mix(tmp_path: Path):
    cache = CudnnCache(tmp_path, version=91900, device="d")
    cache.add({"a": {"bytes": 7}})
    cache.save()
    assert CudnnCache(tmp_path, version=92400, device="d").get("a") is None
    assert CudnnCache(tmp_path, version=91900, device="e").get("a") is None


def test_concurrent_writers_never_leave_a_broken_file(tmp_path: Path):
    def write(start: int) -> None:
        for index in range(20):
            cache = CudnnCache(tmp_path, version=1, device="d")
            cache.add({f"{start}-{index}": {"bytes": index}})
            cache.save()

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (file,) = tmp_path.iterdir()
    replies = json.loads(file.read_text())["replies"]
    assert any(f"{start}-19" in replies for start in range(4))


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    cache = CudnnCache(tmp_path / "file", version=1, device="d")
    cache.add({"a": {"bytes": 7}})
    cache.save()
    assert cache.get("a") == {"bytes": 7}


def test_where_the_cache_is():
    assert cache_folder({"VRAMPLAN_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/vramplan")
    assert cache_folder({}) == Path.home() / ".cache" / "vramplan"


# Devices and libraries


def test_every_nvidia_gpu_from_turing_on_is_described():
    described = [gpu for gpu in all_gpus() if cudnn_devices.is_described(gpu)]
    recent = [gpu for gpu in all_gpus() if (cudnn_devices.capability_of(gpu) or (0, 0)) >= (7, 5)]
    assert described == recent
    for gpu in described:
        device = json.loads(cudnn_devices.device_json(gpu))
        assert f"{device['deviceVer'] // 100}.{device['deviceVer'] // 10 % 10}" == gpu.compute_capability
        assert device["multiProcessorCount"] == gpu.sm_count
    assert [gpu.key for gpu in described if cudnn_devices.has_real_description(gpu)] == ["h200-sxm"]


def test_libraries_are_complete_or_none(tmp_path: Path):
    names = ["libcudnn_graph", "libcudnn_engines_precompiled", "libcudnn_engines_runtime_compiled", "libcudnn_heuristic"]
    (tmp_path / "cudnn" / "lib").mkdir(parents=True)
    (tmp_path / "cu13" / "lib").mkdir(parents=True)
    for name in names:
        (tmp_path / "cudnn" / "lib" / f"{name}.so.9").touch()
    assert libraries_below(tmp_path) == ()  # cuDNN aborts without cuBLASLt
    (tmp_path / "cu13" / "lib" / "libcublasLt.so.13").touch()
    assert [Path(path).name.partition(".")[0] for path in libraries_below(tmp_path)] == ["libcublasLt", *names]


def test_the_version_is_read_from_the_header(tmp_path: Path):
    (tmp_path / "include").mkdir()
    header = tmp_path / "include" / "cudnn_version.h"
    header.write_text("#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 19\n#define CUDNN_PATCHLEVEL 0\n")
    library = str(tmp_path / "lib" / "libcudnn_graph.so.9")
    assert header_version([library]) == 91900
    header.write_text("nothing of the kind")
    assert header_version([library]) is None
    assert header_version([]) is None


needs_cudnn = pytest.mark.skipif(not installed_libraries(), reason="cuDNN is not installed (pip install 'vramplan[cudnn]')")


@needs_cudnn
def test_cudnn_answers_for_an_h200_and_for_an_rtx_3090():
    call = ConvCall(
        input_shape=(8, 768, 20, 20), weight_shape=(64, 768, 3, 3), dtype=DType.FLOAT16,
        stride=(1, 1), padding=(1, 1), dilation=(1, 1),
    )  # fmt: skip
    copies = 2 * (8 * 768 * 20 * 20 + 64 * 768 * 3 * 3 + 8 * 64 * 20 * 20) + 16
    for name in ("h200", "rtx 3090"):
        found = conv_workspaces(find_gpu(name))
        assert abs(found.of(call).nominal_bytes - copies) <= 512
        assert found.note.startswith("Convolution workspace is the answer of cuDNN 9.")


@needs_cudnn
def test_accuracy_on_the_judged_half_with_the_measured_version():
    if header_version(installed_libraries()) != 91900:
        pytest.skip("the measured workspaces are those of cuDNN 9.19.0; another version is installed")
    judged = [row for row in benchmark.rows() if not row.is_fit]
    accuracy = benchmark.accuracy(benchmark.judged(conv_workspaces(H200), judged))
    assert (round(accuracy.spatial, 3), round(accuracy.pointwise, 3)) == (0.978, 0.971)
    assert (round(accuracy.within_8_mib, 4), round(accuracy.under, 4)) == (0.9994, 0.0062)
    assert round(accuracy.inside, 3) == 1


@needs_cudnn
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_cudnn_answers_for_every_kind_of_convolution(rank: int, transposed: bool):
    call = ConvCall(
        input_shape=(2, 32, *(16,) * rank), weight_shape=(32, 32, *(3,) * rank), dtype=DType.FLOAT16,
        stride=(2,) * rank, padding=(1,) * rank, dilation=(1,) * rank, transposed=transposed,
    )  # fmt: skip
    found = conv_workspaces(find_gpu("rtx 3090"))
    found.of(call)
    assert "did not answer" not in found.note
