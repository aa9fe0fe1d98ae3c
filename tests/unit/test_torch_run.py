"""The parts of a run on the device that need none: how a model gets values, and how a history becomes a program."""

from __future__ import annotations

import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vramplan.device import torch_record  # noqa: E402
from vramplan.device.torch_child import first_calls  # noqa: E402
from vramplan.device.torch_device import is_out_of_memory  # noqa: E402
from vramplan.device.torch_record import Call, Entry, Notes  # noqa: E402
from vramplan.device.torch_subject import materialise, open_subject, with_values  # noqa: E402
from vramplan.errors import UsageError  # noqa: E402
from vramplan.program import Role  # noqa: E402

REQUEST = {
    "model": "resnet50",
    "batch": 2,
    "precision": "fp16",
    "memory_format": "channels_last",
    "shapes": {},
    "dims": {},
    "allow_pickle": False,
}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(8)


def test_a_model_on_meta_gets_values_and_shared_weights_stay_shared():
    with torch.device("meta"):
        module = Tied()
    materialise(module)
    assert module.second.weight is module.first.weight
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    assert float(module.norm.running_var.min()) == 1.0
    assert isinstance(module.first.weight, nn.Parameter)


def test_a_model_with_values_keeps_them():
    module = nn.Linear(2, 2)
    before = module.weight
    materialise(module)
    assert module.weight is before


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(torch.float32, 0, 1), (torch.int64, 0, 0), (torch.bool, 1, 1), (torch.float16, 0, 1)]
)
def test_inputs_without_values_get_some(dtype, low, high):
    made = with_values(torch.empty((2, 3), dtype=dtype, device="meta"))
    assert made.shape == (2, 3)
    assert made.dtype is dtype
    assert low <= float(made.min()) <= float(made.max()) <= high


def test_inputs_with_values_keep_them():
    given = torch.arange(4.0)
    assert torch.equal(with_values(given), given)


def test_a_subject_is_cast_on_the_host():
    subject = open_subject(REQUEST)
    subject.cast()
    assert {tensor.dtype for tensor in subject.module.parameters()} == {torch.float16}
    assert subject.inputs.batch == 2
    assert subject.channels_last


def test_a_quantised_policy_is_refused_with_what_can_be_measured():
    with pytest.raises(UsageError, match="int8") as caught:
        open_subject({**REQUEST, "precision": "int8"})
    assert "fp16" in caught.value.hint


def test_a_copy_does_not_keep_the_original_alive():
    subject = open_subject(REQUEST)
    spare = torch_record.copy_of(subject)
    assert spare is not None
    original = weakref.ref(subject.module)
    del subject
    gc.collect()
    assert original() is None


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_it):
    assert is_out_of_memory(error) is is_it


class Said:
    """A line to a parent that only listens."""

    def __init__(self) -> None:
        self.said: list[dict] = []

    def pause(self, **message: object) -> None:
        self.said.append(message)


def test_first_calls_are_told_once_with_their_module(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr("vramplan.device.torch_child.counters", dict)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    line = Said()
    with first_calls(module, line):  # type: ignore[arg-type]
        module(torch.zeros(1, 3, 1, 1))
    module(torch.zeros(1, 3, 1, 1))
    assert [(item["step"], item["where"]) for item in line.said] == [("first_convolution", "0"), ("first_gemm", "3")]


def read(history: list[Entry], calls: list[Call], notes: Notes, first: int = 0):
    history = torch_record._until(history, notes, first)
    reader = torch_record._Reader(calls, notes, first)
    return reader.program(history), reader.segments(history)


HISTORY = [
    Entry("segment_alloc", 1000, 2 << 20),
    Entry("alloc", 1000, 40),  # 0: a weight
    Entry("alloc", 1512, 80),  # 1: the input
    Entry("segment_alloc", 500, 20 << 20),
    Entry("alloc", 500, 300),  # 2: conv2d's workspace
    Entry("alloc", 2048, 64),  # 3: conv2d's result
    Entry("free_requested", 500, 300),
    Entry("free_completed", 500, 300),  # 4
    Entry("alloc", 500, 999),  # 5: addmm's workspace, which stays
    Entry("alloc", 2560, 32),  # 6: addmm's result
    Entry("free_completed", 2048, 64),  # 7: the convolution's result dies
    Entry("free_completed", 2560, 32),  # 8: after the last phase
]
CALLS = [
    Call(label="stem conv2d", start=2, stop=5, results=frozenset({2048})),
    Call(label="fc linear", start=5, stop=7, results=frozenset({2560})),
]


def test_a_history_becomes_a_program():
    notes = Notes(ends=[("load", 2), ("first_run", 8)], inputs_start=1, names={1000: "fc.weight", 1512: "x"})
    notes.outputs = [(8, frozenset({2560}))]
    program, _ = read(HISTORY, CALLS, notes)
    assert [(item.name, item.role, item.size_bytes) for item in program.buffers] == [
        ("fc.weight", Role.WEIGHT, 40),
        ("x", Role.INPUT, 80),
        ("stem conv2d", Role.WORKSPACE, 300),
        ("stem conv2d", Role.ACTIVATION, 64),
        ("fc linear", Role.WORKSPACE, 999),
        ("fc linear", Role.OUTPUT, 32),
    ]
    assert program.ops == ("load", "stem conv2d", "fc linear")
    assert [(phase.name, phase.start, phase.stop) for phase in program.phases] == [("load", 0, 2), ("first_run", 2, 8)]
    assert [event.op_index for event in program.events] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert program.peak().live_bytes == 40 + 80 + 64 + 999 + 32


def test_segments_are_ranked_by_address():
    notes = Notes(ends=[("load", 2), ("first_run", 8)], inputs_start=1)
    _, segments = read(HISTORY, CALLS, notes)
    assert segments == ((0, 1, 2 << 20), (2, 0, 20 << 20))


def test_event_numbers_may_start_anywhere():
    """The counters of a process go on; the history begins with the recording."""
    notes = Notes(ends=[("load", 102), ("first_run", 108)], inputs_start=101, outputs=[(108, frozenset({2560}))])
    calls = [Call(label=call.label, start=call.start + 100, stop=call.stop + 100, results=call.results) for call in CALLS]
    program, _ = read(HISTORY, calls, notes, first=100)
    assert [item.role for item in program.buffers][-1] is Role.OUTPUT
    assert len(program.events) == 8


def test_segments_that_were_given_back_are_not_told():
    notes = Notes(ends=[("load", 2), ("first_run", 8)], inputs_start=1)
    _, segments = read([*HISTORY[:8], Entry("segment_free", 1000, 2 << 20), *HISTORY[8:]], CALLS, notes)
    assert segments == ()
