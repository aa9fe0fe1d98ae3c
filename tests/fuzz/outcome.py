"""The one promise about a file from a stranger: it becomes a graph, or one clear error."""

from functools import cache
from pathlib import Path

from vramplan.errors import VramplanError
from vramplan.graph import Graph
from vramplan.precision import apply_policy, find_policy
from vramplan.runtimes.tensorrt import Fusions, plan
from vramplan.sources.onnx_file import bind, read_onnx

MODELS = Path(__file__).parents[2] / "models" / "onnx"


@cache
def content(name: str) -> bytes:
    """A model of the zoo, as bytes."""
    return (MODELS / f"{name}.onnx").read_bytes()


def graph_or_error(damaged: bytes) -> Graph | VramplanError:
    """What reading and planning *damaged* comes to, with every named dimension bound to 64."""
    try:
        model = read_onnx(damaged)
        dims = {dim: 64 for value in model.inputs for dim in value.dims or () if isinstance(dim, str) and dim.isidentifier()}
        graph = bind(model, dims=dims)
        plan(Fusions.of(graph), apply_policy(graph, find_policy("int8")))
        return graph
    except VramplanError as error:
        return error


def check(damaged: bytes) -> None:
    """Fail unless *damaged* becomes a graph, or an error of one printable sentence."""
    found = graph_or_error(damaged)
    if isinstance(found, VramplanError):
        assert found.exit_code in {2, 3}
        assert found.message.isprintable()
        assert len(found.message) < 1000
