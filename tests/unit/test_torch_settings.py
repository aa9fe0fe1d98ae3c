"""What a program sets in ``torch.backends.cudnn`` changes its estimate."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vramplan.estimate import estimate  # noqa: E402
from vramplan.runtimes.torch_eager.settings import cudnn_flags  # noqa: E402
from vramplan.workspace.cudnn import CudnnFlags  # noqa: E402


@pytest.fixture
def cudnn(monkeypatch):
    for name in ("benchmark", "deterministic", "allow_tf32"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    return torch.backends.cudnn


def test_pytorchs_defaults_are_ours(cudnn):
    assert cudnn_flags() == CudnnFlags(tf32=True, deterministic=False, benchmark=False)


def test_what_is_set_counts(cudnn):
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = True, True, False
    assert cudnn_flags() == CudnnFlags(tf32=False, deterministic=True, benchmark=True)


def test_a_benchmark_is_a_range_and_a_note(cudnn):
    plain = estimate("resnet50", batch=8, precision="fp16", runtime="torch", gpu="h200")
    cudnn.benchmark = True
    tried = estimate("resnet50", batch=8, precision="fp16", runtime="torch", gpu="h200")
    assert tried.total_bytes > plain.total_bytes
    assert tried.total_low_bytes < tried.total_bytes
    assert any("cudnn.benchmark is on" in note for note in tried.notes)
    assert not any("cudnn.benchmark" in note for note in plain.notes)
