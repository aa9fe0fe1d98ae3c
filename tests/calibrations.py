"""A calibration as text, and a child that says what a GPU would: made up, in the shape of the real thing."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from vramplan.gpus.calibration import Calibration, calibration_of

RTX_3090: dict[str, Any] = {
    "format": "vramplan-calibration",
    "schema_version": 1,
    "gpu": {
        "key": "rtx3090",
        "name": "NVIDIA GeForce RTX 3090",
        "compute_capability": "8.6",
        "sm_count": 82,
        "nvidia_smi_total_bytes": 25_769_803_776,
        "cuda_visible_total_bytes": 25_298_927_616,
    },
    "environment": {"driver": "570.1", "torch": "2.11.0+cu130", "date": "2026-11-20T10:00:00+00:00", "cuda": "13.0"},
    "context": [
        {"runtime": "torch", "stage": "context", "context_bytes": 268_435_456},
        {"runtime": "torch", "stage": "first_tensor", "context_bytes": 270_000_000},
        {"runtime": "torch", "stage": "first_convolution", "context_bytes": 280_000_000},
        {"runtime": "torch", "stage": "first_gemm", "context_bytes": 340_000_000},
    ],
    "cublas_workspace_bytes": 8_519_680,
    "decode": [
        {"codec": "h264", "width": 1920, "height": 1080, "sessions": 1, "fps": 690.0, "session_bytes": None},
        {"codec": "h264", "width": 1920, "height": 1080, "sessions": 4, "fps": 700.0, "session_bytes": 60_000_000},
    ],
    "compute": [{"dtype": "fp16", "tflops": 65.0}, {"dtype": "tf32", "tflops": 33.0}],
    "memory_bandwidth_gb_s": 840.0,
    "pcie": {"to_gpu_pinned_gb_s": 24.0, "to_gpu_pageable_gb_s": 9.0, "from_gpu_pinned_gb_s": 25.0},
}


def content(**changes: Any) -> dict[str, Any]:
    """The one above, with other values for some keys; a copy."""
    return json.loads(json.dumps({**RTX_3090, **changes}))


def calibration(**changes: Any) -> Calibration:
    return calibration_of(content(**changes))


def put(folder: Path, name: str = "", **changes: Any) -> Path:
    """Write one into the settings *folder*, as it stands."""
    found = content(**changes)
    path = folder / "calibrations" / (name or f"{found['gpu']['key']}_x_{len(list(folder.rglob('*.json')))}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


REPORTS: list[dict[str, Any]] = [
    {"stage": "context", "reserved_bytes": 0, "wait": True},
    {"stage": "first_tensor", "reserved_bytes": 2_097_152, "wait": True},
    {"stage": "first_convolution", "reserved_bytes": 2_097_152, "wait": True},
    {"stage": "first_gemm", "reserved_bytes": 35_651_584, "wait": True},
    {"workspace_bytes": 33_562_624},
    {
        "environment": {"cuda": "13.0", "torch": "2.11.0+cu130", "cudnn": "91900", "python": "3.12.3", "platform": "Linux"},
        "gpu": {"sm_count": 132, "cuda_visible_total_bytes": 150_109_880_320},
    },
    {"compute": {"fp16": 700.0}},
    {"note": "fp8 was not measured: RuntimeError: no"},
    {"memory_bandwidth_gb_s": 4_100.0},
    {"pcie": {"to_gpu_pinned_gb_s": 55.0}},
    {"done": True},
]

USED = (0, 552_402_944, 650_969_088, 661_454_848, 762_118_144)
"""What an H200 had in use before, and at each of the four barriers."""


def child(folder: Path, reports: list[dict[str, Any]] = REPORTS, *, then: str = "", name: str = "child.py") -> list[str]:
    """A command that reports *reports*, stands still where it must, and does *then*."""
    path = folder / name
    path.write_text(
        textwrap.dedent(
            f"""
            import json, os, sys, time
            sys.stdin.readline()
            for report in json.loads({json.dumps(json.dumps(reports))}):
                print(json.dumps(report), flush=True)
                if report.get("wait"):
                    sys.stdin.readline()
            {then}
            """
        )
    )
    return [sys.executable, str(path)]
