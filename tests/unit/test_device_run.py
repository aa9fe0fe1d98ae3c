"""From what a child reports and a driver shows to a measurement."""

from __future__ import annotations

import os

import pytest

from tests.device_fakes import H200
from tests.measured import MIB, STEPS, TOLD, counters, measurement, probe, reading, speaking, used
from vramplan.device.measurement import Latency, Measurement, Outcome, PhaseReading
from vramplan.device.probe import GpuProcess
from vramplan.device.run import Request, run_child
from vramplan.errors import MachineError, MeasurementError, ModelError

REQUEST = Request(model="net.py:net", batch=4, precision="fp16", memory_format="contiguous", limit_bytes=1 << 34)


def run(messages: list[dict], **answers: object) -> Measurement:
    return run_child(REQUEST, probe=probe(**answers), device=H200, timeout_s=20, command=speaking(messages))


def test_the_context_is_the_process_less_what_the_allocator_reserved():
    found = run(TOLD)
    assert {name: phase.context_bytes // MIB for name, phase in found.phases.items()} == {
        "weights": 618 - 20,
        "load": 638 - 40,
        "first_run": 708 - 100,
        "steady": 728 - 120,
    }
    assert [(step.name, step.context_bytes // MIB, step.where) for step in found.steps] == [
        ("init", 500, ""),
        ("first_kernel", 600 - 2, ""),
        ("first_convolution", 688 - 80, "stem.conv"),
    ]
    assert found.total_bytes == 728 * MIB
    assert found.outcome is Outcome.FINISHED


def test_who_and_where():
    found = run(TOLD)
    assert (found.model, found.batch, found.precision) == ("net", 4, "fp16")
    assert found.environment["driver"] == "580.159.04"
    assert found.environment["torch"] == "2.11.0"
    assert "runs the code of net.py" in found.notes
    assert found.latency is not None
    assert found.latency.throughput_per_s == 4 * 1000 / 5.0


def test_memory_that_was_in_use_before_is_subtracted():
    found = run(TOLD, memory=used(0, 500, 600, 618, 638, 688, 708, 728, base_mib=3000))
    assert found.total_bytes == 728 * MIB


def test_what_another_process_takes_meanwhile_is_subtracted():
    """The other grows by 100 MiB when the run begins, and the card shows both."""
    before = (GpuProcess(pid=7, name="ffmpeg", used_bytes=50 * MIB),)
    after = (GpuProcess(pid=7, name="ffmpeg", used_bytes=150 * MIB),)
    memory = used(50, *(mib + 150 for mib in (500, 600, 618, 638, 688, 708, 728)))
    found = run(TOLD, memory=memory, processes=[before, after])
    assert found.total_bytes == 728 * MIB
    assert found.others == before
    assert any("ffmpeg (7)" in note for note in found.notes)


def test_the_measuring_process_itself_is_no_other():
    found = run(TOLD, processes=(GpuProcess(pid=os.getpid(), name="python", used_bytes=3 * MIB),))
    assert found.others == ()


def test_out_of_memory_keeps_what_was_reached():
    messages = [*STEPS[:4], {"phase": "out_of_memory", "counters": counters(90)}, OUT_OF_MEMORY]
    found = run(messages, memory=used(0, 500, 600, 618, 638, 690))
    assert found.outcome is Outcome.OUT_OF_MEMORY
    assert found.failure == "OutOfMemoryError: tried to allocate 8.00 GiB"
    assert found.total_bytes == 690 * MIB
    assert "first_run" not in found.phases


OUT_OF_MEMORY = {"error": {"kind": "out_of_memory", "message": "OutOfMemoryError: tried to allocate 8.00 GiB", "hint": ""}}


def test_memory_that_was_given_back_counts_at_its_peak():
    """120 MiB were reserved at the peak, 100 at the end; the driver shows 708."""
    peaked = counters(100) | {"reserved_peak_bytes": 120 * MIB}
    assert PhaseReading(process_bytes=708 * MIB, **peaked).process_peak_bytes == (708 + 20) * MIB


@pytest.mark.parametrize(
    ("kind", "error"),
    [("model", ModelError), ("machine", MachineError), ("measurement", MeasurementError), ("?", MeasurementError)],
)
def test_what_the_child_says_is_wrong_is_raised(kind, error):
    with pytest.raises(error, match="because"):
        run([{"error": {"kind": kind, "message": "because", "hint": ""}}])


@pytest.mark.parametrize(
    "message",
    [
        {"phase": "load"},
        {"phase": "load", "counters": counters(1) | {"allocated_bytes": 5 * MIB}},
        {"phase": "load", "counters": counters(1) | {"surprise": 1}},
        {"phase": ["load"], "counters": counters(1)},
        {"step": "init"},
        {"latency": {"median_ms": -1, "low_ms": 0, "high_ms": 0, "runs": 0}, "device_alloc_count": 0},
        {"latency": {"median_ms": "fast", "low_ms": 0, "high_ms": 0, "runs": 0}, "device_alloc_count": 0},
    ],
)
def test_a_report_that_cannot_be_is_one_clear_error(message):
    with pytest.raises(MeasurementError, match="reported what cannot be"):
        run([message])


def test_a_child_that_finishes_early_is_no_measurement():
    with pytest.raises(MeasurementError):
        run([*STEPS[:3], {"done": True}])


def test_a_finished_measurement_has_all_phases():
    with pytest.raises(ValueError, match="finished"):
        measurement(phases={"load": reading(40)})


def test_a_latency_is_in_order():
    with pytest.raises(ValueError, match="not a latency"):
        Latency(median_ms=3.0, low_ms=4.0, high_ms=5.0, run_count=1, batch=1)
