"""How large a model becomes once its local functions are written out, computed without writing them out."""

from __future__ import annotations

from vramplan.errors import ModelError
from vramplan.sources.onnx_tree import Body, FunctionKey, Operation, Tree
from vramplan.sources.onnx_types import MAX_NODES, show

MAX_CALL_DEPTH = 48
"""Functions that call functions, with the graphs between them; torch's exporter nests about ten."""


def check_expansion(tree: Tree, *, where: str) -> int:
    """Nodes of *tree* with its functions expanded.

    Raises `ModelError` when a function calls itself, when calls nest too deeply, or beyond `MAX_NODES`.
    """
    known: dict[FunctionKey, tuple[int, int]] = {}
    open_calls: dict[FunctionKey, None] = {}

    def of_operation(operation: Operation) -> tuple[int, int]:
        key = operation.function_key
        parts = [of_body(body) for body in operation.bodies.values()]
        if key in tree.functions:
            parts.append(of_function(key))
        return 1 + sum(size for size, _ in parts), max((depth for _, depth in parts), default=0)

    def of_body(body: Body) -> tuple[int, int]:
        total, deepest = 0, 0
        for operation in body.operations:
            size, depth = of_operation(operation)
            total, deepest = total + size, max(deepest, depth)
            if total > MAX_NODES:
                raise ModelError(f"{where} has more than {MAX_NODES:,} nodes once its local functions are written out")
        return total, deepest

    def of_function(key: FunctionKey) -> tuple[int, int]:
        if key in open_calls:
            raise ModelError(f"{where}: local function {show(key[1])} calls itself", hint="ONNX functions must not recurse.")
        if key not in known:
            open_calls[key] = None
            # The open calls are a chain from the top; what was measured before is below it.
            size, depth = of_body(tree.functions[key].body) if len(open_calls) <= MAX_CALL_DEPTH else (0, MAX_CALL_DEPTH)
            del open_calls[key]
            known[key] = size, depth + 1
        if known[key][1] > MAX_CALL_DEPTH:
            raise ModelError(f"{where}: local functions nest more than {MAX_CALL_DEPTH} deep, at {show(key[1])}")
        return known[key]

    return of_body(tree.body)[0]
