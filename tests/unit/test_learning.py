"""What a verified run teaches about the workspace of its convolutions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from vramplan.estimate import estimate
from vramplan.folders import cache_folder
from vramplan.gpus import find_gpu
from vramplan.learning import measured_workspaces
from vramplan.program import Action, Buffer, MemoryProgram, Role
from vramplan.ranges import Evidence
from vramplan.workspace.convolution import WORKSPACE_NAME
from vramplan.workspace.cudnn import ConvWorkspaces, CudnnAnswers, remember
from vramplan.workspace.cudnn_devices import device_json
from vramplan.workspace.cudnn_process import CudnnProcess

H200 = find_gpu("h200")


@pytest.fixture(scope="module")
def expected():
    return estimate("resnet50", batch=8, precision="fp16", runtime="torch", gpu="h200")


def with_workspaces(program: MemoryProgram, size_bytes: int) -> MemoryProgram:
    """The same program on a device where each convolution that has any workspace asks for *size_bytes*."""
    buffers = tuple(
        replace(item, size_bytes=size_bytes) if item.role is Role.WORKSPACE and item.name.endswith(WORKSPACE_NAME) else item
        for item in program.buffers
    )
    return replace(program, buffers=buffers)


def test_every_convolution_is_read_off(expected):
    """ResNet-50 has 53 convolutions; calls that are alike count once."""
    assert len(expected.convolutions) == 53
    found = measured_workspaces(expected, with_workspaces(expected.program, 12_345))
    assert set(found) == set(expected.convolutions.values())
    assert set(found.values()) <= {0, 12_345}
    assert 12_345 in found.values()


def test_no_request_is_no_workspace(expected):
    """A device that asks for nothing records nothing."""
    dropped = {
        index
        for index, item in enumerate(expected.program.buffers)
        if item.role is Role.WORKSPACE and item.name.endswith(WORKSPACE_NAME)
    }
    number = {old: new for new, old in enumerate(i for i in range(len(expected.program.buffers)) if i not in dropped)}
    kept = [event for event in expected.program.events if event.buffer_index not in dropped]
    starts = {
        phase.name: sum(e.buffer_index in dropped for e in expected.program.events[: phase.stop])
        for phase in expected.program.phases
    }
    phases, last = [], 0
    for phase in expected.program.phases:
        stop = phase.stop - starts[phase.name]
        phases.append(phase._replace(start=last, stop=stop))
        last = stop
    program = MemoryProgram(
        buffers=tuple(expected.program.buffers[old] for old in number),
        events=tuple(event._replace(buffer_index=number[event.buffer_index]) for event in kept),
        ops=expected.program.ops,
        phases=tuple(phases),
    )
    assert set(measured_workspaces(expected, program).values()) == {0}


def test_a_convolution_that_differs_in_more_teaches_nothing(expected):
    """Another size of result is another convolution."""
    program = expected.program
    first = min(expected.convolutions)
    held = next(
        e.buffer_index
        for e in program.events
        if e.op_index == first and e.action is Action.HOLD and program.buffers[e.buffer_index].role is not Role.WORKSPACE
    )
    buffers = list(program.buffers)
    buffers[held] = Buffer(name="other", role=Role.ACTIVATION, size_bytes=buffers[held].size_bytes + 512)
    found = measured_workspaces(expected, replace(program, buffers=tuple(buffers)))
    assert expected.convolutions[first] not in found


def test_what_was_learned_comes_before_cudnns_answer(expected, monkeypatch, tmp_path):
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(tmp_path))
    call = next(iter(expected.convolutions.values()))
    remember({call: 777_216}, H200, version=91900)
    process = CudnnProcess(["/no/such/python"])
    answers = CudnnAnswers(process, device=device_json(H200), folder=cache_folder(), version=91900)
    found = ConvWorkspaces(H200, answers=answers)
    size = found.of(call)
    assert (size.low_bytes, size.nominal_bytes, size.high_bytes, size.evidence) == (
        777_216,
        777_216,
        777_216,
        Evidence.MEASURED,
    )
    assert "; 1 calls were measured on such a card." in found.note


def test_another_version_of_cudnn_does_not_count(expected, monkeypatch, tmp_path):
    monkeypatch.setenv("VRAMPLAN_CACHE_DIR", str(tmp_path))
    call = next(iter(expected.convolutions.values()))
    remember({call: 777_216}, H200, version=91900)
    answers = CudnnAnswers(
        SimpleNamespace(ask=lambda requests: [None] * len(requests)),
        device=device_json(H200),
        folder=cache_folder(),
        version=92000,
    )
    assert ConvWorkspaces(H200, answers=answers).of(call).evidence is Evidence.BOUNDED
