"""The three signs, from samples made by hand; the report of a running program, honest and hostile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.device_fakes import H200, H200_IDLE, IDLE, RTX_3090, FakeProbe, with_used
from vramplan.device import reporter
from vramplan.device.probe import Activity, GpuProcess
from vramplan.device.reporter import TorchCounters, read_report, report_path, torch_gpus, write_report
from vramplan.errors import MachineError, MeasurementError, UsageError
from vramplan.gpus.link import link_bytes_per_s
from vramplan.sampling import Target, find_target, samples
from vramplan.units import GIB, MIB
from vramplan.watching import Level, Sample, judge, recent, sum_up

LINK_BYTES_PER_S = 63_008_000_000
NO_PROCESS = 2**22 + 5
"""Linux numbers processes up to 2**22."""


def sample(time_s: float, **changes: Any) -> Sample:
    standard = Sample(
        time_s=time_s, used_bytes=2 * GIB, activity=IDLE, process_bytes=2 * GIB, link_bytes_per_s=LINK_BYTES_PER_S
    )
    return replace(standard, **changes)


def counters(**changes: int) -> TorchCounters:
    standard = TorchCounters(
        allocated_bytes=GIB, allocated_peak_bytes=GIB, reserved_bytes=GIB, requested_bytes=GIB, retry_count=0,
        device_alloc_count=40, oom_count=0,
    )  # fmt: skip
    return replace(standard, **changes)


def sign(name: str, *taken: Sample) -> Any:
    return next(sign for sign in judge(taken) if sign.name == name)


def test_the_link_of_generation_5_with_16_lanes_is_63_gb_a_second():
    assert link_bytes_per_s(5, 16) == 63_008_000_000
    assert link_bytes_per_s(4, 8) == 15_752_000_000
    assert link_bytes_per_s(None, 16) is link_bytes_per_s(9, 16) is link_bytes_per_s(4, 0) is None


def test_reserved_memory_that_tensors_never_took_is_fragmentation():
    torch = counters(reserved_bytes=4 * GIB, allocated_bytes=GIB, allocated_peak_bytes=2 * GIB)
    found = sign("memory", sample(0, torch=torch, process_bytes=5 * GIB))
    assert found.level is Level.PRESENT
    assert found.text.startswith("3.00 GiB are held and not used")
    assert "the process holds 5.00 GiB" in found.text
    assert "expandable_segments" in found.remedy


def test_reserved_memory_of_a_peak_that_passed_is_cache():
    torch = counters(reserved_bytes=4 * GIB, allocated_bytes=GIB, allocated_peak_bytes=4 * GIB)
    assert "empty_cache" in sign("memory", sample(0, torch=torch)).remedy


def test_memory_is_judged_by_the_most_that_was_allocated_and_not_by_a_low_moment():
    high, low = counters(reserved_bytes=4 * GIB, allocated_bytes=4 * GIB), counters(reserved_bytes=4 * GIB, allocated_bytes=GIB)
    assert sign("memory", sample(0, torch=high), sample(1, torch=low)).level is Level.ABSENT


def test_without_counters_memory_is_compared_with_its_lowest_reading():
    steady = sign("memory", *(sample(time_s) for time_s in range(5)))
    assert (steady.level, "unknown" in steady.text) == (Level.UNKNOWN, True)
    assert "report_memory()" in steady.remedy
    grown = sign("memory", *(sample(time_s, process_bytes=2 * GIB + time_s * GIB) for time_s in range(5)))
    assert grown.level is Level.PRESENT
    assert grown.text.startswith("4.00 GiB more")
    assert "what tensors take is unknown" in grown.text


def test_a_retry_in_the_steady_state_is_a_sign_and_one_of_the_warm_up_is_not():
    def taken(*retries: tuple[float, int]) -> list[Sample]:
        return [sample(time_s, torch=counters(retry_count=count)) for time_s, count in retries]

    assert sign("allocation", *taken((0, 0), (5, 9), (11, 9), (12, 9))).level is Level.ABSENT
    found = sign("allocation", *taken((0, 0), (11, 9), (12, 11)))
    assert (found.level, found.text[:22]) == (Level.PRESENT, "2 allocation retries a")


@pytest.mark.parametrize(("calls", "level"), [(2, Level.ABSENT), (3, Level.PRESENT)])
def test_calls_of_cuda_malloc_in_the_steady_state_are_counted(calls: int, level: Level):
    first, last = counters(device_alloc_count=40), counters(device_alloc_count=40 + calls)
    assert sign("allocation", sample(11, torch=first), sample(12, torch=last)).level is level


def test_a_counter_that_begins_anew_does_not_count_backwards():
    taken = [sample(11 + index, torch=counters(device_alloc_count=count)) for index, count in enumerate((500, 2, 3))]
    assert sign("allocation", *taken).text.startswith("0 allocation retries and 1 calls")


def test_without_counters_stalls_while_memory_changes_are_a_sign():
    def taken(*, changes: bool) -> list[Sample]:
        return [
            sample(
                11 + index,
                activity=Activity(sm_ratio=0.9 if index % 2 == 0 else 0.01),
                process_bytes=2 * GIB + (index % 2) * 64 * MIB * changes,
            )
            for index in range(8)
        ]

    assert sign("allocation", *taken(changes=True)).level is Level.PRESENT
    assert sign("allocation", *taken(changes=False)).level is Level.ABSENT
    assert sign("allocation", sample(0), sample(1)).level is Level.UNKNOWN


def test_a_gpu_that_was_never_busy_has_no_stalls():
    taken = [sample(11 + index, activity=Activity(sm_ratio=0.0), process_bytes=index * GIB) for index in range(8)]
    assert sign("allocation", *taken).level is Level.ABSENT


@pytest.mark.parametrize(("ratio", "level"), [(0.79, Level.ABSENT), (0.85, Level.PRESENT)])
def test_copies_bind_above_80_percent_of_the_link(ratio: float, level: Level):
    full = Activity(pcie_to_gpu_bytes_per_s=round(ratio * LINK_BYTES_PER_S), pcie_from_gpu_bytes_per_s=0)
    assert sign("pcie", *(sample(time_s, activity=full) for time_s in range(4))).level is level


def test_one_burst_of_copies_is_no_sign():
    full = Activity(pcie_from_gpu_bytes_per_s=LINK_BYTES_PER_S)
    assert sign("pcie", sample(0, activity=full), *(sample(time_s) for time_s in range(1, 9))).level is Level.ABSENT


def test_a_link_that_nobody_tells_is_unknown():
    assert sign("pcie", *(sample(time_s, link_bytes_per_s=None) for time_s in range(9))).level is Level.UNKNOWN


def test_the_live_verdict_forgets_what_is_older_than_a_minute():
    taken = [sample(time_s) for time_s in range(100)]
    assert [kept.time_s for kept in recent(taken)] == list(range(39, 100))
    assert recent([]) == []


def test_a_verdict_sums_up():
    capped = replace(IDLE, sm_ratio=1.0, throttle=("power cap",))
    verdict = sum_up([sample(0), sample(2, activity=capped, process_bytes=3 * GIB)])
    assert (verdict.sample_count, verdict.duration_s, verdict.peak_bytes) == (2, 2, 3 * GIB)
    assert (verdict.sm_ratio, verdict.throttle) == (0.5, ("power cap",))
    assert [sign.name for sign in verdict.signs] == ["memory", "allocation", "pcie"]


def test_a_process_is_found_on_the_gpu_where_it_is():
    here = GpuProcess(pid=os.getpid(), name="python", used_bytes=GIB)
    probe = FakeProbe(
        devices=(H200, RTX_3090),
        memory=with_used(H200_IDLE, GIB),
        processes={H200.uuid: (), RTX_3090.uuid: [(here,), (here,), ()]},
    )
    target = find_target(probe, pid=os.getpid())
    assert target == Target(device=RTX_3090, pid=os.getpid())
    assert target.link_bytes_per_s == link_bytes_per_s(4, 16)  # idle: generation 1 now
    taken = list(samples(probe, target, interval_s=1, seconds=None, sleep=lambda _: None))
    assert [(look.process_bytes, look.used_bytes) for look in taken] == [(GIB, GIB)]


def test_a_process_that_does_not_exist_or_is_elsewhere_is_told_apart():
    other = FakeProbe(processes=(GpuProcess(pid=NO_PROCESS, name="train", used_bytes=None),))
    with pytest.raises(UsageError, match=f"no process {NO_PROCESS}") as missing:
        find_target(other, pid=NO_PROCESS)
    assert f"{NO_PROCESS} train" in missing.value.hint
    with pytest.raises(MeasurementError, match="holds no memory of any GPU"):
        find_target(other, pid=os.getpid())
    with pytest.raises(UsageError, match="no GPU number 7"):
        find_target(other, gpu_index=7)


def test_samples_end_after_the_seconds():
    clock = iter(range(1000))
    taken = samples(FakeProbe(), Target(device=H200), interval_s=1, seconds=5, clock=lambda: next(clock), sleep=lambda _: None)
    assert 0 < len(list(taken)) < 5


def test_a_driver_that_fails_meanwhile_is_a_machine_error():
    probe = FakeProbe(memory=[H200_IDLE, MachineError("gone")])
    with pytest.raises(MachineError, match="gone"):
        list(samples(probe, Target(device=H200), interval_s=1, seconds=None, sleep=lambda _: None))


GPU = {
    "uuid": "76c34910-8f16-8d1f-898e-d91af8d97654", "allocated_bytes": 1, "allocated_peak_bytes": 3, "reserved_bytes": 4,
    "requested_bytes": 1, "retry_count": 0, "device_alloc_count": 2, "oom_count": 0,
}  # fmt: skip


def test_a_report_is_read_back_by_the_uuid_that_nvml_tells(tmp_path: Path):
    write_report(report_path(os.getpid(), tmp_path), [GPU])
    found = read_report(os.getpid(), H200.uuid, folder=tmp_path)
    assert (found.reserved_bytes, found.device_alloc_count) == (4, 2)
    assert read_report(os.getpid(), RTX_3090.uuid, folder=tmp_path) is None
    assert read_report(NO_PROCESS, H200.uuid, folder=tmp_path) is None
    assert [path.name for path in (tmp_path / "watch").iterdir()] == [f"{os.getpid()}.json"]


def test_an_old_report_is_none(tmp_path: Path):
    write_report(report_path(os.getpid(), tmp_path), [GPU])
    later_ms = time.time_ns() // 1_000_000 + 60_000
    assert read_report(os.getpid(), H200.uuid, folder=tmp_path, now_ms=later_ms) is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b"{", b"[" * 100_000, b'{"format": 1}', b" " * (65 << 10),
        *(
            json.dumps({"format": 1, "pid": 7, "time_ms": 1000, "gpus": gpus}).encode()
            for gpus in (
                None, 3, {}, [3], [{}], [{**GPU, "reserved_bytes": -1}], [{**GPU, "reserved_bytes": 1.5}],
                [{**GPU, "reserved_bytes": True}], [{**GPU, "reserved_bytes": 1 << 70}], [{**GPU, "retry_count": "x"}],
                [{**GPU, "uuid": 3}], [GPU] * 1000,
            )
        ),
        json.dumps({"format": 2, "pid": 7, "time_ms": 1000, "gpus": [GPU]}).encode(),
        json.dumps({"format": 1, "pid": 8, "time_ms": 1000, "gpus": [GPU]}).encode(),
        json.dumps({"format": 1, "pid": 7, "time_ms": "1000", "gpus": [GPU]}).encode(),
        json.dumps({"format": 1, "pid": 7, "time_ms": 10**30, "gpus": [GPU]}).encode(),
    ],
)  # fmt: skip
def test_a_broken_report_is_none(tmp_path: Path, content: bytes):
    path = report_path(7, tmp_path)
    path.parent.mkdir()
    path.write_bytes(content)
    assert read_report(7, H200.uuid, folder=tmp_path, now_ms=1000) is None


def test_a_pipe_in_the_place_of_a_report_does_not_block(tmp_path: Path):
    path = report_path(7, tmp_path)
    path.parent.mkdir()
    os.mkfifo(path)
    assert read_report(7, H200.uuid, folder=tmp_path) is None


def cuda(*, is_initialized: bool, reserved_bytes: int = 4) -> Any:
    statistics = {
        "reserved_bytes.all.peak": reserved_bytes,
        "reserved_bytes.all.current": reserved_bytes,
        "num_device_alloc": 2,
    }
    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_initialized=lambda: is_initialized,
            device_count=lambda: 1,
            memory_stats=lambda _: statistics,
            get_device_properties=lambda _: SimpleNamespace(uuid="76c34910"),
        )
    )


def test_counters_are_read_only_when_the_program_has_initialised_cuda():
    assert torch_gpus(None) == torch_gpus(SimpleNamespace()) == torch_gpus(cuda(is_initialized=False)) == []
    assert torch_gpus(cuda(is_initialized=True, reserved_bytes=0)) == []
    (gpu,) = torch_gpus(cuda(is_initialized=True))
    assert (gpu["uuid"], gpu["reserved_bytes"], gpu["device_alloc_count"], gpu["retry_count"]) == ("76c34910", 4, 2, 0)


def test_an_interval_that_is_none_is_a_usage_error():
    with pytest.raises(UsageError, match="interval_s"):
        reporter.report_memory(interval_s=0)


PROGRAM = """
import sys, time, types
from pathlib import Path
statistics = {"reserved_bytes.all.peak": 4, "reserved_bytes.all.current": 4}
properties = types.SimpleNamespace(uuid="")
cuda = types.SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 1, memory_stats=lambda _: statistics,
                             get_device_properties=lambda _: properties)
sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
import vramplan
path = vramplan.report_memory(interval_s=0.05)
assert vramplan.report_memory() == path
while not path.exists():
    time.sleep(0.01)
print(sys.argv, __name__, path.read_text())
"""


@pytest.mark.parametrize("start", [[], ["-m", "vramplan.device.reporter"]], ids=["called", "started"])
def test_a_program_reports_and_takes_its_report_away(tmp_path: Path, start: list[str]):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "VRAMPLAN_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, *start, str(script), "--flag"]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    words, _, report = outcome.stdout.partition("__main__")
    assert "--flag" in words
    assert json.loads(report)["gpus"][0]["reserved_bytes"] == 4
    assert list((tmp_path / "watch").iterdir()) == []
