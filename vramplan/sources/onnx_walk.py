"""Walks the operations of a model in execution order; writes down flat nodes and what is known about each value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vramplan.errors import ModelError
from vramplan.graph import Node
from vramplan.sources.onnx_dims import evaluate_dims
from vramplan.sources.onnx_facts import Call, Fact
from vramplan.sources.onnx_infer import infer
from vramplan.sources.onnx_parse import constant_node, with_attributes
from vramplan.sources.onnx_scope import Names, Scope
from vramplan.sources.onnx_tree import Body, Constant, Declared, Function, Operation, Tree
from vramplan.sources.onnx_types import check_dims, show

Control = Callable[["Walk", Operation, Scope], None]
"""How an operation with bodies is walked."""

_DEFAULT_OPSET = 1


class Walk:
    """What has been written down so far: nodes in order, and what is known about each value."""

    def __init__(self, tree: Tree, symbols: Mapping[str, int], control: Mapping[str, Control], *, where: str) -> None:
        self.tree = tree
        self.control = control
        self.where = where
        self.symbols = symbols
        self.nodes: list[Node] = []
        self.facts: dict[str, Fact] = {}
        self.weights: dict[str, Constant] = {}
        self.notes: list[str] = []
        self.names = Names()

    def run(self, scope: Scope) -> None:
        """Walk every operation of a body."""
        for operation in scope.body.operations:
            self.step(operation, scope)

    def step(self, operation: Operation, scope: Scope) -> None:
        """Walk one operation: a call of a local function, control flow, or something that computes."""
        if operation.references:
            operation = with_attributes(operation, scope.attributes, where=self.where)
            constant = constant_node(operation, where=self.where) if operation.op == "Constant" else None
            if constant is not None:
                scope.names[constant.name] = self.keep_constant(constant, scope)
                return
        function = self.tree.functions.get(operation.function_key)
        control = self.control.get(operation.op) if operation.domain == "" and operation.bodies else None
        if function is not None:
            self.call(function, operation, scope)
        elif control is not None:
            control(self, operation, scope)
        else:
            self.compute(operation, scope)

    def compute(self, operation: Operation, scope: Scope) -> None:
        """Write down a node, with the facts of its outputs."""
        inputs = tuple(self.name_of(scope, name, reader=operation.name) if name else "" for name in operation.inputs)
        call = Call(
            where=self.where,
            name=operation.name,
            op=operation.op,
            domain=operation.domain,
            opset=scope.opsets.get(operation.domain, _DEFAULT_OPSET),
            inputs=tuple(self.facts[name] if name else None for name in inputs),
            output_count=len(operation.outputs),
            attributes=operation.attributes,
            tensors=operation.tensors,
            proto=operation.proto,
        )
        facts = infer(call)
        written = zip(operation.outputs, facts, strict=True)
        outputs = tuple(self.write(scope, name, fact) if name else "" for name, fact in written)
        self.emit(operation, scope, inputs, outputs)

    def emit(self, operation: Operation, scope: Scope, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Append a node."""
        self.nodes.append(
            Node(
                name=scope.prefix + operation.name,
                op=operation.op,
                domain=operation.domain,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                attributes=operation.attributes,
            )
        )

    def call(self, function: Function, operation: Operation, scope: Scope) -> None:
        """Write down the body of a local function in place of a call of it."""
        body = function.body
        inputs = [self.name_of(scope, name, reader=operation.name) if name else "" for name in operation.inputs]
        if len(inputs) > len(body.inputs) or len(operation.outputs) > len(body.outputs):
            call = f"node {show(operation.name)} calls function {show(operation.op)}"
            raise ModelError(f"{self.where}: {call} with more inputs or outputs than it has")
        inner = Scope(
            body,
            opsets=function.opsets,
            prefix=scope.inner_prefix(operation.name),
            attributes={**function.defaults, **{attribute.name: attribute for attribute in operation.proto.attribute}},
        )
        missing = [""] * (len(body.inputs) - len(inputs))
        inner.names.update((value.name, name) for value, name in zip(body.inputs, inputs + missing, strict=True))
        outputs = zip(body.outputs, operation.outputs, strict=False)
        self.expand(inner, [(value.name, self.declare(scope, name)) for value, name in outputs if name])

    def expand(self, inner: Scope, outputs: Sequence[tuple[str, str]]) -> None:
        """Walk a body whose *outputs* (inner name, name in the flat graph) are read outside."""
        for inside, name in outputs:
            inner.wanted.setdefault(inside, name)
        self.run(inner)
        for inside, name in outputs:
            self.hand_out(inner, inside, name)

    def hand_out(self, inner: Scope, inside: str, name: str) -> None:
        """See to it that inner value *inside* is called *name*; one that something else wrote is copied."""
        found = self.name_of(inner, inside, reader="an output of its graph")
        if not found:
            raise ModelError(f"{self.where}: a local function returns its input {show(inside)}, which a caller leaves out")
        if found != name:
            self.facts[name] = self.facts[found]
            self.nodes.append(Node(name=name, op="Identity", inputs=(found,), outputs=(name,)))

    def name_of(self, scope: Scope, local: str, *, reader: str) -> str:
        """What *local* is called in the flat graph. Constants become weights when they are first read."""
        place: Scope | None = scope
        while place is not None:
            if local in place.names:
                return place.names[local]
            if local in place.body.constants:
                place.names[local] = self.keep_constant(place.body.constants[local], place)
                return place.names[local]
            place = place.parent
        raise ModelError(f"{self.where}: {show(reader)} reads tensor {show(local)}, which nothing writes")

    def keep_constant(self, constant: Constant, scope: Scope) -> str:
        """Write a constant down as a weight."""
        name = self.names.fresh(scope.prefix + constant.name)
        self.weights[name] = constant
        self.facts[name] = Fact(dtype=constant.dtype, dims=constant.dims, value=constant.value)
        return name

    def declare(self, scope: Scope, local: str) -> str:
        """The name in the flat graph of a value that is about to be written."""
        name = scope.wanted.pop(local, None)
        scope.names[local] = name if name is not None else self.names.fresh(scope.prefix + local)
        return scope.names[local]

    def write(self, scope: Scope, local: str, fact: Fact) -> str:
        """Note what is known about a value that an operation writes; returns its name."""
        name = self.declare(scope, local)
        self.facts[name] = self.hinted(fact, scope.body, local)
        return name

    def hinted(self, fact: Fact, body: Body, local: str) -> Fact:
        """*fact*, with what the file itself says about the value where inference gave up."""
        hint: Declared | None = None if fact.known is not None or fact.items is not None else body.hints.get(local)
        if hint is None or hint.dims is None or hint.container == "sequence":
            return fact
        dims = evaluate_dims(hint.dims, self.symbols)
        check_dims(local, hint.dtype, dims, what=f"{self.where}: tensor")
        declared = Fact(dtype=hint.dtype, dims=dims)
        return declared if declared.known is not None else fact

    def fact(self, name: str) -> Fact | None:
        """What is known about a value, None for the empty name."""
        return self.facts[name] if name else None
