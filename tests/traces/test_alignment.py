"""Whole networks recorded on an H200 (torch 2.11, cuDNN 9.19): a trace has the same events, but for the workspace of cuDNN."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from tests.traces import definitions  # noqa: E402
from tests.traces.align import Step, Traced, first_difference, recorded_phase, traced_phase, workspaces  # noqa: E402
from tests.traces.recording import DATA  # noqa: E402
from vramplan.ranges import Evidence, Range  # noqa: E402
from vramplan.runtimes.torch_eager.shadow import Target  # noqa: E402
from vramplan.runtimes.torch_eager.trace import trace  # noqa: E402
from vramplan.sources.recording import read_recording  # noqa: E402

ANY_SIZE = Range(low_bytes=0, nominal_bytes=0, high_bytes=1 << 40, evidence=Evidence.BOUNDED)
H200 = Target(capability=(9, 0), sm_count=132, conv_workspace=lambda _: ANY_SIZE, torch_version=(2, 11))
ANCHORS = 8400

RECORDINGS = {
    "resnet50_fp16_contiguous_b8": (definitions.resnet50, torch.float16, (8, 3, 224, 224)),
    "vit_b_16_fp16_contiguous_b8": (definitions.vit_b_16, torch.float16, (8, 3, 224, 224)),
    "yolov8s_fp16_contiguous_b8": (definitions.yolov8s, torch.float16, (8, 3, 640, 640)),
    "yolov8s_fp16_channels_last_b8": (definitions.yolov8s, torch.float16, (8, 3, 640, 640)),
    "yolov8s_fp32_contiguous_b1": (definitions.yolov8s, torch.float32, (1, 3, 640, 640)),
}


def _program(recording: str, *, remembers: bool = False):
    """The trace of what was recorded. *remembers*: of a detector that has been called before."""
    make, dtype, shape = RECORDINGS[recording]
    model = make()
    if remembers:
        model.layers[-1].remember(ANCHORS)
    images = torch.empty(shape, device="meta")
    return trace(model, (images,), {}, H200, dtype=dtype, channels_last="channels_last" in recording).program


@functools.cache
def _recorded(recording: str) -> dict[str, list[Step]]:
    program = read_recording(DATA / f"{recording}.json.gz").program
    return {phase.name: recorded_phase(program, phase.name) for phase in program.phases}


@pytest.fixture(scope="module", params=RECORDINGS)
def recording(request):
    return request.param


@pytest.fixture(scope="module")
def program(recording):
    return _program(recording)


def test_load(recording, program):
    """Weights in the order in which they move, then the input. The recorded ones took their layout on the host."""
    reordered = {index for index, item in enumerate(program.buffers) if item.name.endswith("before it is reordered")}
    ours = [traced for traced in traced_phase(program, "load") if traced.step.key not in reordered]
    assert first_difference(ours, _recorded(recording)["load"]) == ""


def test_first_forward(recording, program):
    assert first_difference(traced_phase(program, "first_run"), _recorded(recording)["first_run"]) == ""


def test_three_more_forwards(recording, program):
    """The detector made its grid in the first forward and kept it: its loop is that of one that has it already."""
    if recording.startswith("yolov8s"):
        program = _program(recording, remembers=True)
    assert first_difference(traced_phase(program, "steady"), _recorded(recording)["steady"]) == ""


def test_only_convolutions_differ(recording, program):
    """What is left out of the comparison is at most one allocation for each convolution."""
    ours, real = traced_phase(program, "first_run"), _recorded(recording)["first_run"]
    left_out = list(workspaces(ours, real))
    places = [step for step in ours if step.is_place]
    assert len(left_out) <= len(places)
    assert len(real) == len(ours) - len(places) + 2 * len(left_out)


ALLOC, FREE = Step(True, 1, 64), Step(False, 1, 64)
WORKSPACE = [Step(True, 2, 7), Step(False, 2, 7)]
PLACE = Traced(Step(True, 9, 0), "conv", True)


def _ours(*steps: Step) -> list[Traced]:
    return [Traced(step, "relu", False) for step in steps]


def test_a_workspace_may_stand_in_its_place_only():
    alloc, free = _ours(ALLOC, FREE)
    assert first_difference([alloc, PLACE, free], [ALLOC, *WORKSPACE, FREE]) == ""
    assert first_difference([alloc, PLACE, free], [ALLOC, FREE]) == ""
    assert first_difference([alloc, free], [ALLOC, *WORKSPACE, FREE]) == (
        "step 1, relu: ours free 64 bytes, theirs allocate 7 bytes"
    )
    assert first_difference([alloc, PLACE, free], [ALLOC, *WORKSPACE, *WORKSPACE, FREE]) == (
        "step 3, relu: ours free 64 bytes, theirs allocate 7 bytes"
    )


def test_a_difference_is_named():
    other = Step(True, 5, 64)
    assert (
        first_difference(_ours(ALLOC), [Step(True, 1, 65)]) == "step 0, relu: ours allocate 64 bytes, theirs allocate 65 bytes"
    )
    assert first_difference(_ours(ALLOC), []) == "step 0, relu: ours allocate 64 bytes, theirs end"
    assert first_difference([], [ALLOC]) == "step 0, at the end: ours end, theirs allocate 64 bytes"
    assert first_difference(_ours(ALLOC, other, FREE), [ALLOC, other, Step(False, 5, 64)]) == (
        "step 2, relu: ours free 64 bytes, theirs free 64 bytes (another allocation)"
    )


FIRST_TRACE = """
import torch
from torch import nn
from vramplan.ranges import Range
from vramplan.runtimes.torch_eager.shadow import Target
from vramplan.runtimes.torch_eager.trace import trace

class Model(nn.Module):
    def forward(self, x):
        x = x + 1
        return nn.functional.adaptive_avg_pool2d(x, 1) * 2

target = Target(capability=(9, 0), sm_count=132, conv_workspace=lambda _: Range.exact(0), torch_version=(2, 11))
first, second = (trace(Model(), (torch.empty(8, 64, 7, 7, device="meta"),), {}, target).program for _ in range(2))
assert first == second, "the first trace of a process differs from the next"
"""


def test_first_trace_of_a_process_equals_the_next():
    """PyTorch imports parts of itself at a first op; frames that such an import keeps must not keep tensors alive."""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST_TRACE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
