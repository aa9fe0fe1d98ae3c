"""Copies the structure of an ONNX file and leaves its tensor values where they are.

A protobuf message is a list of fields, each a key, a length and bytes, so values can be stepped over without being
read. Parsing the whole file instead would take as much memory as its weights, and would believe every length in it.
What comes out is again a valid ``ModelProto``: names, dimensions and types, small constants, no weights and no
documentation strings.

The scanner checks each length against the message around it, counts nodes and nesting, and refuses a file that would
cost more than a real model can. It knows nothing of ONNX beyond the field numbers in the tables below, which follow
onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import Enum, auto

from vramplan.errors import ModelError
from vramplan.sources.onnx_types import DTYPES, MAX_NODES, expected_bytes, show
from vramplan.units import MIB

Source = bytes | mmap.mmap

MAX_STRUCTURE_BYTES = 64 * MIB
"""A graph of 50,000 nodes needs about 10 MiB without its values and comments."""

MAX_GRAPH_DEPTH = 24
"""Graphs inside graphs. Protobuf itself stops at 100 messages, which is 33 graphs."""

MAX_FIELDS = 8_000_000
"""Fields visited: 250,000 nodes of 32 fields."""

SMALL_BYTES = 1024
"""Values up to this size are kept: shapes, axes, scales and pads are among them."""

_BIG_STRING_BYTES = 1 << 16
_MAX_VARINT_BYTES = 10


class _Do(Enum):
    """What to do with a field that has a length."""

    DROP = auto()
    DROP_IF_BIG = auto()


_RULES: dict[str, dict[int, str | _Do]] = {
    "model": {6: _Do.DROP, 7: "graph", 14: _Do.DROP, 20: _Do.DROP, 25: "function"},
    "graph": {1: "node", 5: "tensor", 10: _Do.DROP, 14: _Do.DROP, 15: "sparse", 16: _Do.DROP},
    "function": {7: "node", 8: _Do.DROP, 11: "attribute", 14: _Do.DROP},
    "node": {5: "attribute", 6: _Do.DROP, 9: _Do.DROP, 10: _Do.DROP},
    "attribute": {
        4: _Do.DROP_IF_BIG, 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 13: _Do.DROP, 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}  # fmt: skip

_VALUE_FIELDS = frozenset({4, 5, 6, 7, 9, 10, 11})
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TENSOR_COMMENTS = frozenset({12, 16})

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A model without its values: a serialized ``ModelProto``, and how many nodes it has at all levels."""

    model_bytes: bytes
    node_count: int


def scan(source: Source, *, where: str) -> Structure:
    """Copy the structure of the model in *source*; *where* names it in errors.

    Raises `ModelError` when the bytes are no protobuf message, end too early, or go beyond a limit.
    """
    scanner = _Scanner(source, where)
    try:
        slim = scanner.message("model", 0, len(source), 0)
    except IndexError:
        raise scanner.damaged(len(source), "the file ends in the middle of a field") from None
    return Structure(model_bytes=bytes(source) if slim is None else bytes(slim), node_count=scanner.nodes)


class _Scanner:
    """Walks messages; counts what it has seen."""

    def __init__(self, source: Source, where: str) -> None:
        self.source = source
        self.where = where
        self.nodes = 0
        self.fields = 0

    def message(self, kind: str, start: int, end: int, depth: int) -> bytearray | None:
        """The message in ``[start, end)`` without what its rules drop; None when nothing had to go."""
        rules = _RULES[kind]
        out: bytearray | None = None
        kept_until = pos = start
        while pos < end:
            field_start = pos
            number, wire, pos = self.key(pos, end)
            if wire != _LENGTH:
                pos = self.skip(wire, pos, end)
                continue
            body, pos = self.length(pos, end)
            rule = rules.get(number)
            if rule is None:
                continue
            replacement = self.child(rule, body, pos, depth)
            if replacement is None:
                continue
            out = bytearray() if out is None else out
            out += self.source[kept_until:field_start]
            out += _field(number, replacement) if isinstance(rule, str) else b""
            kept_until = pos
        self.check_size(kept_until, end, out)
        if out is not None:
            out += self.source[kept_until:end]
        return out

    def child(self, rule: str | _Do, start: int, end: int, depth: int) -> bytes | bytearray | None:
        """What to write in place of a field's bytes; None to keep them, empty to drop them."""
        if rule is _Do.DROP:
            return b""
        if rule is _Do.DROP_IF_BIG:
            return b"" if end - start > _BIG_STRING_BYTES else None
        if rule == "tensor":
            return self.tensor(start, end) if end - start > SMALL_BYTES else None
        if rule == "node":
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise ModelError(f"{self.where} has more than {MAX_NODES:,} nodes", hint="vramplan reads no graph that large.")
        if rule == "graph":
            depth += 1
            if depth > MAX_GRAPH_DEPTH:
                raise ModelError(f"{self.where} nests graphs more than {MAX_GRAPH_DEPTH} deep")
        return self.message(str(rule), start, end, depth)

    def tensor(self, start: int, end: int) -> bytearray:
        """A tensor without its values, if they are big; their size must be what the dimensions say."""
        out, dims, name = bytearray(), list[int](), b""
        dtype, raw, values = 0, -1, bytearray()
        values_bytes, pos = 0, start
        while pos < end:
            field_start = pos
            number, wire, pos = self.key(pos, end)
            body = pos
            if wire == _LENGTH:
                body, pos = self.length(pos, end)
            else:
                pos = self.skip(wire, pos, end)
            if number in _TENSOR_COMMENTS:
                continue
            if number in _VALUE_FIELDS:
                values_bytes += pos - body
                raw = pos - body if number == _TENSOR_RAW else raw
                if values_bytes <= SMALL_BYTES:
                    values += self.source[field_start:pos]
                continue
            if number == _TENSOR_DIMS:
                dims += self.integers(wire, body, pos)
            elif number == _TENSOR_TYPE and wire == _VARINT:
                dtype = self.varint(body, pos)[0]
            elif number == _TENSOR_NAME:
                name = bytes(self.source[body : min(pos, body + 200)])
            self.check_size(field_start, pos, out)
            out += self.source[field_start:pos]
        self.check_values(name, dims, dtype, raw)
        return out + values if values_bytes <= SMALL_BYTES else out

    def check_values(self, name: bytes, dims: list[int], dtype: int, raw_bytes: int) -> None:
        """Dimensions that do not agree with the values cannot be believed."""
        known = DTYPES.get(dtype)
        if raw_bytes <= 0 or known is None:
            return
        expected = expected_bytes(known, dims)
        if expected != raw_bytes:
            label = show(name.decode("utf-8", "replace"))
            raise ModelError(
                f"{self.where}: tensor {label} declares {dims} of {known}, {expected:,} bytes, "
                f"but has {raw_bytes:,} bytes of values"
            )

    def integers(self, wire: int, pos: int, end: int) -> list[int]:
        """A packed or single integer field, as signed 64-bit values."""
        found = list[int]()
        while pos < end:
            value, pos = self.varint(pos, end) if wire in {_VARINT, _LENGTH} else (0, end)
            found.append(value - (1 << 64) if value >> 63 else value)
            self.count_field()
        return found

    def key(self, pos: int, end: int) -> tuple[int, int, int]:
        """Field number, wire type, and where the field's content begins."""
        self.count_field()
        value = self.source[pos]
        if value < 0x80:
            pos += 1
        else:
            value, pos = self.varint(pos, end)
        if value < 8:
            raise self.damaged(pos, "field number 0")
        return value >> 3, value & 7, pos

    def length(self, pos: int, end: int) -> tuple[int, int]:
        """Where a field's bytes begin and end."""
        size = self.source[pos] if pos < end else 0x80
        if size < 0x80:
            pos += 1
        else:
            size, pos = self.varint(pos, end)
        if size > end - pos:
            raise self.damaged(pos, f"a field of {size:,} bytes where {end - pos:,} are left")
        return pos, pos + size

    def skip(self, wire: int, pos: int, end: int) -> int:
        """Where a field without a length ends."""
        if wire == _VARINT:
            return self.varint(pos, end)[1]
        if wire not in {_FIXED32, _FIXED64}:
            raise self.damaged(pos, f"wire type {wire}, which ONNX does not use")
        pos += 4 if wire == _FIXED32 else 8
        if pos > end:
            raise self.damaged(end, "a field goes beyond the message around it")
        return pos

    def varint(self, pos: int, end: int) -> tuple[int, int]:
        """A variable-length integer, seven bits a byte, lowest first."""
        value = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            if pos >= end:
                raise self.damaged(end, "a number goes beyond the message around it")
            byte = self.source[pos]
            pos += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, pos
        raise self.damaged(pos, "a number longer than 64 bits")

    def count_field(self) -> None:
        """Time is bounded by the number of fields looked at."""
        self.fields += 1
        if self.fields > MAX_FIELDS:
            raise ModelError(f"{self.where} has more than {MAX_FIELDS:,} protobuf fields, more than any model needs")

    def check_size(self, start: int, end: int, out: bytearray | None) -> None:
        """Memory is bounded by what is copied."""
        size = end - start + len(out or b"")
        if size > MAX_STRUCTURE_BYTES:
            raise ModelError(
                f"{self.where} needs {size / MIB:,.0f} MiB for its structure alone, without any weights; "
                f"the limit is {MAX_STRUCTURE_BYTES // MIB} MiB"
            )

    def damaged(self, pos: int, what: str) -> ModelError:
        """The one error for bytes that are no protobuf message."""
        return ModelError(
            f"{self.where} is not an ONNX model, or is damaged: {what} (byte {pos:,} of {len(self.source):,})",
            hint="Export or download it again.",
        )


def _field(number: int, content: bytes | bytearray) -> bytes:
    return _encode(number << 3 | _LENGTH) + _encode(len(content)) + content


def _encode(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
