from __future__ import annotations

import sys

import pytest

import vramplan as vp
from vramplan.errors import UsageError
from vramplan.sweep import sweep
from vramplan.verdict import Change


def test_cells_come_by_precision_and_then_by_batch():
    cells = sweep("mobilenet_v2", batches=(4, 1), precisions=("fp16", "fp32"))
    assert [(cell.precision, cell.batch) for cell in cells] == [("fp16", 4), ("fp16", 1), ("fp32", 4), ("fp32", 1)]
    assert len(cells) == 4


def test_a_cell_is_what_estimate_says():
    (cell,) = sweep("mobilenet_v2", batches=(2,), precisions=("fp16",), gpu="3090")
    alone = vp.estimate("mobilenet_v2", batch=2, precision="fp16", gpu="3090")
    assert cell == alone


def test_the_model_is_read_once_and_bound_once_a_batch(monkeypatch: pytest.MonkeyPatch):
    sweep_module = sys.modules[sweep.__module__]  # the package exports the function under the module's name
    calls = {"open_model": 0, "bind": 0}

    def counted(name: str):
        original = getattr(sweep_module, name)

        def call(*arguments):
            calls[name] += 1
            return original(*arguments)

        return call

    for name in calls:
        monkeypatch.setattr(sweep_module, name, counted(name))
    sweep("mobilenet_v2", batches=(1, 2), precisions=("fp32", "fp16", "int8"))
    assert calls == {"open_model": 1, "bind": 2}


def test_a_cell_is_resolved_with_one_thing_changed():
    cells = sweep("mobilenet_v2", batches=(2,), precisions=("fp32",))
    changed = cells.resolve(cells.cells[0], Change(precision="fp16"))
    assert (changed.precision, changed.batch) == ("fp16", 2)
    assert cells.resolve(cells.cells[0], Change(batch=3)).batch == 3


def test_repeats_are_one_cell_by_any_name():
    assert len(sweep("mobilenet_v2", precisions=("fp16", "half"), batches=(1, 1))) == 1


@pytest.mark.parametrize("axes", [{"batches": ()}, {"precisions": ()}, {"runtimes": ()}, {"runtimes": ("abacus",)}])
def test_axes_are_checked_before_the_model_is_read(axes: dict[str, tuple[str, ...]]):
    with pytest.raises(UsageError):
        sweep("there is no such model", **axes)  # type: ignore[arg-type]


def test_a_frame_has_one_row_a_cell_in_whole_bytes():
    cells = sweep("mobilenet_v2", batches=(1, 2), precisions=("fp32",))
    frame = cells.to_frame()
    assert frame["batch"].to_list() == [1, 2]
    assert frame["total_bytes"].to_list() == [cell.total_bytes for cell in cells]
    assert str(frame["total_bytes"].dtype) == "Int64"
