"""A stand-in for cuBLASLt on a machine without a GPU: standard library only, for the child that asks cuDNN.

cuDNN runs many 1x1 convolutions as matrix products of cuBLASLt, an engine among its others. Without a GPU the real library's
``cublasLtCreate`` fails, cuDNN leaves the engine out without a word, and what it names instead is never run. It opens the
library by its name, as documented, so one that is loaded earlier under that name is taken: this one, which says yes to
everything and that a product needs no workspace. cuDNN then ranks its engines as on the device, and names the limit on
workspace that it would give to cuBLASLt (a knob). What cuBLASLt takes within the limit is a rule of ours (``products``).

The library is written here, byte by byte: an ELF file of nothing but jumps, whose targets are Python functions. No part of
NVIDIA's is copied or changed. Functions: https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Sequence
from typing import Any

_SUCCEEDING = (
    "cublasLtDestroy", "cublasLtMatmulDescDestroy", "cublasLtMatmulDescSetAttribute", "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceInit_internal", "cublasLtMatmulPreferenceSetAttribute", "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutInit_internal", "cublasLtMatrixLayoutSetAttribute", "cublasLtMatmulDescInit_internal",
)  # fmt: skip
_CREATING = ("cublasLtCreate", "cublasLtMatmulDescCreate", "cublasLtMatmulPreferenceCreate", "cublasLtMatrixLayoutCreate")
_FAILING = (
    "cublasLtMatmul", "cublasLtMatmulDescGetAttribute", "cublasLtMatrixLayoutGetAttribute", "cublasLtMatrixTransform",
    "cublasLtMatrixTransformDescCreate", "cublasLtMatrixTransformDescDestroy", "cublasLtMatrixTransformDescGetAttribute",
    "cublasLtMatrixTransformDescInit_internal", "cublasLtMatrixTransformDescSetAttribute",
)  # fmt: skip
"""What running a product needs, which does not happen here."""

_NOT_INITIALIZED = 1
_RESULT_BYTES = 96
"""sizeof(cublasLtMatmulHeuristicResult_t): algorithm 64, workspace 8, state 4, waves 4, reserved 16."""

_JUMPS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "x86_64": (62, lambda distance: struct.pack("<HI", 0x25FF, distance - 6)),  # jmp *distance(%rip)
    "aarch64": (183, lambda distance: struct.pack("<II", 0x58000010 | distance // 4 << 5, 0xD61F0200)),  # ldr x16; br x16
}
"""The number of a machine in ELF, and its jump to an address that is kept so far ahead."""

_SEGMENT = 0x10000
"""Where the second part begins, in the file and in memory: pages are as large on some machines."""

_JUMP_BYTES, _SLOTS = 16, "slots"
_KEPT: list[Any] = []
"""What the library jumps to must live as long as the process."""


def stand_in(name: str) -> bool:
    """Load a library that is called *name*, such as ``libcublasLt.so.13``; False where that cannot be done."""
    jump = _JUMPS.get(platform.machine())
    major = name.rpartition(".")[2]
    if jump is None or not hasattr(os, "memfd_create") or not major.isdecimal():
        return False
    functions = _functions(int(major))
    try:
        file = os.memfd_create(name)
        os.write(file, library(name, tuple(functions), *jump))
        loaded = ctypes.CDLL(f"/proc/self/fd/{file}", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    slots = (ctypes.c_void_p * len(functions)).in_dll(loaded, _SLOTS)
    for index, function in enumerate(functions.values()):
        slots[index] = ctypes.cast(function, ctypes.c_void_p).value
    _KEPT.append((loaded, functions))
    return True


def library(name: str, functions: Sequence[str], machine: int, jump: Callable[[int], bytes]) -> bytes:
    """An ELF shared library *name* whose *functions* jump to the addresses in its array ``slots``, one for each.

    Read and execute: headers, symbols, jumps. Read and write, from `_SEGMENT` on: the dynamic section and the slots.
    """
    symbols = (*functions, _SLOTS)
    strings = b"\0" + b"".join(text.encode() + b"\0" for text in (name, *symbols))
    hash_at = 64 + 4 * 56
    hash_table = struct.pack("<4I", 1, len(symbols) + 1, 1, 0) + struct.pack(
        f"<{len(symbols)}I", *range(2, len(symbols) + 1), 0
    )  # one bucket: a chain of all
    symbols_at = _aligned(hash_at + len(hash_table))
    strings_at = symbols_at + 24 * (len(symbols) + 1)
    jumps_at = _aligned(strings_at + len(strings))
    end = jumps_at + _JUMP_BYTES * len(functions)
    dynamic = ((4, hash_at), (5, strings_at), (6, symbols_at), (10, len(strings)), (11, 24), (14, 1), (0, 0))
    slots_at = _SEGMENT + 16 * len(dynamic)

    places = [jumps_at + _JUMP_BYTES * index for index in range(len(functions))]
    table, offset = bytes(24), 1 + len(name) + 1
    for symbol, place in zip(symbols, (*places, slots_at), strict=True):
        is_data = symbol == _SLOTS
        table += struct.pack("<IBBHQQ", offset, 0x10 | (1 if is_data else 2), 0, 1, place, 8 * len(functions) * is_data)
        offset += len(symbol) + 1
    jumps = b"".join(jump(slots_at + 8 * index - place).ljust(_JUMP_BYTES, b"\0") for index, place in enumerate(places))
    second = b"".join(struct.pack("<QQ", *entry) for entry in dynamic) + bytes(8 * len(functions))

    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 4, 0, 0, 0)
    programs = (
        _program(1, 5, 0, end),  # PT_LOAD, read and execute
        _program(1, 6, _SEGMENT, len(second)),  # PT_LOAD, read and write
        _program(2, 6, _SEGMENT, 16 * len(dynamic)),  # PT_DYNAMIC
        _program(0x6474E551, 6, 0, 0),  # PT_GNU_STACK: no execution there
    )
    first = b"".join((header, *programs, hash_table)).ljust(symbols_at, b"\0") + table + strings
    return (first.ljust(jumps_at, b"\0") + jumps).ljust(_SEGMENT, b"\0") + second


def _program(kind: int, flags: int, offset: int, size: int) -> bytes:
    """A program header; addresses are offsets in the file."""
    return struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, size, size, _SEGMENT)


def _aligned(offset: int) -> int:
    return -(-offset // 16) * 16


def _functions(major: int) -> dict[str, Any]:
    status = ctypes.CFUNCTYPE(ctypes.c_int)
    create = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p))
    block = ctypes.create_string_buffer(64)
    _KEPT.append(block)

    def created(target: Any) -> int:
        target[0] = ctypes.addressof(block)
        return 0

    def chosen(*arguments: Any) -> int:
        results, count = arguments[-2:]
        ctypes.memset(results, 0, _RESULT_BYTES)
        count[0] = 1
        return 0

    version = major * 10_000 + 100
    pointers = [ctypes.c_void_p] * 7
    return {
        **{name: status(lambda: 0) for name in _SUCCEEDING},
        **{name: create(created) for name in _CREATING},
        **{name: status(lambda: _NOT_INITIALIZED) for name in _FAILING},
        "cublasLtGetVersion": ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: version),
        "cublasLtGetProperty": _property(version),
        "cublasLtMatmulAlgoGetHeuristic": ctypes.CFUNCTYPE(
            ctypes.c_int, *pointers, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
        )(chosen),
    }


def _property(version: int) -> Any:
    """The function that tells a part of *version*: major, minor or patch."""

    def told(part: int, target: Any) -> int:
        target[0] = (version // 10_000, version // 100 % 100, version % 100)[part]
        return 0

    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int))(told)
