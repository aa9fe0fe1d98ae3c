"""Sizes of named dimensions, and the little arithmetic that exporters write into names (``past + 1``, ``2*s0``)."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

from vramplan.sources.onnx_facts import Shape
from vramplan.sources.onnx_tree import Dims

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_MAX_EXPRESSION_CHARS = 200
_MAX_SIZE = 1 << 62


def evaluate_dims(dims: Dims, symbols: Mapping[str, int]) -> Shape:
    """*dims* as numbers; None for what *symbols* do not decide."""
    return tuple(dim if isinstance(dim, int) else evaluate_dim(dim, symbols) for dim in dims)


def evaluate_dim(text: str, symbols: Mapping[str, int]) -> int | None:
    """The size of a named dimension: a symbol, or integer arithmetic on symbols. None when it is neither."""
    if text in symbols:
        return symbols[text]
    tree = _parsed(text)
    try:
        return None if tree is None else _value(tree.body, symbols)
    except (ValueError, ZeroDivisionError, RecursionError):
        return None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.Expression | None:
    if len(text) > _MAX_EXPRESSION_CHARS:
        return None
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, symbols: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as number):
            size = number
        case ast.Name(id=name) if name in symbols:
            size = symbols[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            size = _OPERATORS[type(op)](_value(left, symbols), _value(right, symbols))
        case _:
            raise ValueError("no arithmetic on known sizes")
    if abs(size) > _MAX_SIZE:
        raise ValueError("beyond any size")
    return size
