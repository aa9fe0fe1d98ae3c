"""What other tools and rules of thumb say about the runs that were measured: one line a run, blank where a peer failed.

    python benchmarks/torch/peers.py [--peers mem_tracker,onnx_tool] [--models zoo/yolov8s,tv/resnet50]

Writes ``peers.csv`` and ``peers_failed.csv`` beside the measurements. No GPU is needed, and no number of ours is used. With
``--peers`` or ``--models`` only those are asked again; the rest of both files stays.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
import torch
import zoo
from fakes import Case, bytes_of, on_fakes
from rows import FAILED, KEY, PEERS_FILE, is_exported, key_of, read_csv, read_runs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SECONDS = 120
"""What one peer may take for one run."""


def weights_and_a_fifth(case: Case) -> int:
    """Common advice for transformers: the weights, and 20 % more."""
    return case.weights_bytes() * 12 // 10


def all_outputs(case: Case) -> int:
    """Weights, inputs and the result of every leaf module, none ever freed."""
    outputs, inputs, _ = _outputs(case)
    return case.weights_bytes() + inputs + outputs


def two_largest(case: Case) -> int:
    """Weights, inputs and twice the largest tensor: the inputs, or the result of any operator."""
    _, inputs, largest = _outputs(case)
    return case.weights_bytes() + inputs + 2 * max(inputs, largest)


def torchinfo_total(case: Case) -> int:
    """The "Estimated Total Size" that torchinfo prints; it doubles the pass size for gradients whatever the mode."""
    found = _torchinfo(case)
    return int(found.total_input + found.total_output_bytes + found.total_param_bytes)


def torchinfo_forward(case: Case) -> int:
    """The same with that doubling undone: kinder than what it prints."""
    found = _torchinfo(case)
    return int(found.total_input + found.total_output_bytes // 2 + found.total_param_bytes)


def mem_tracker(case: Case) -> int:
    """The peak that torch's MemTracker sees on the fake device."""
    from torch.distributed._tools.mem_tracker import MemTracker

    def run(module: nn.Module, args: Any, kwargs: Any) -> int:
        for parameter in module.parameters():  # it hooks the gradient of each, and fails on frozen ones
            parameter.requires_grad_(parameter.is_floating_point())
        tracker = MemTracker()
        tracker.track_external(module, *(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)))
        with tracker:
            module(*args, **kwargs)
        return max(peak["Total"] for device, peak in tracker.get_tracker_snapshot("peak").items() if device.type == "cuda")

    return int(on_fakes(case, run))


def onnx_tool(case: Case) -> int | None:
    """Weights and compressed memory of the exported graph; asked only where a CPU exports in seconds."""
    if not is_exported(case.dtype, case.memory_format, case.batch):
        return None
    import onnx_tool as tool

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        path = Path(folder) / "model.onnx"
        _export(case, path)
        graph = tool.Model(str(path)).graph
        graph.shape_infer(None)
        _, compressed = graph.compress_memory()
        return int(sum(graph.tensormap[name].get_memsize() for name in graph.initials) + compressed)


PEERS: dict[str, Callable[[Case], int | None]] = {
    peer.__name__: peer
    for peer in (weights_and_a_fifth, all_outputs, two_largest, torchinfo_total, torchinfo_forward, mem_tracker, onnx_tool)
}
KNOWS_LAYOUTS = ("mem_tracker", "onnx_tool")
"""The others count elements: their answer for channels_last is the one for contiguous."""


class Largest(TorchDispatchMode):
    """Watches for the largest result of an operator that is not a view of its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = [leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            self.size_bytes = max([self.size_bytes, *made])
        return out


@functools.lru_cache(maxsize=1)
def _outputs(case: Case) -> tuple[int, int, int]:
    """Bytes of the results of all leaf modules, of the inputs, and of the largest result of an operator."""

    def run(module: nn.Module, args: Any, kwargs: Any) -> tuple[int, int, int]:
        found: list[int] = []
        for part in module.modules():
            if not any(part.children()):
                part.register_forward_hook(lambda _, __, out: found.append(bytes_of(tree_leaves(out))))
        with Largest() as largest:
            module(*args, **kwargs)
        return sum(found), bytes_of(tree_leaves((args, kwargs))), largest.size_bytes

    answer: tuple[int, int, int] = on_fakes(case, run)
    return answer


@functools.lru_cache(maxsize=1)
def _torchinfo(case: Case) -> Any:
    import torchinfo

    return on_fakes(case, lambda module, args, kwargs: torchinfo.summary(module, input_data=kwargs or list(args), verbose=0))


def _export(case: Case, path: Path) -> None:
    """The TorchScript exporter is the quicker one; the other is asked where it fails."""
    module, make_inputs = _with_weights(case.name)
    args, kwargs = make_inputs(case.batch)
    try:
        torch.onnx.export(module, args, str(path), kwargs=kwargs, dynamo=False)
    except TimeoutError:
        raise
    except Exception:
        torch.onnx.export(module, args, str(path), kwargs=kwargs, dynamo=True, external_data=False, verbose=False)


@functools.lru_cache(maxsize=1)
def _with_weights(name: str) -> Any:
    """The model on the CPU, for an exporter that runs it.

    Those of transformers return no cache, and their attention is written out: onnx-tool does not know all ops of the other.
    """
    module, make_inputs = zoo.build(name)
    for part in module.modules():
        if hasattr(part, "set_attn_implementation"):
            part.config.use_cache = False
            part.set_attn_implementation("eager")
    return module, make_inputs


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after *seconds*."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ask(peer: str, case: Case) -> tuple[int | str, str]:
    """What *peer* says, or blank and why; blank and no reason where it was not asked."""
    try:
        with limited(SECONDS):
            found = PEERS[peer](case)
    except Exception as error:
        root = error.__cause__ or error
        return "", f"{type(root).__name__}: {(str(root).strip().splitlines() or [''])[0]}"[:100]
    return "" if found is None else found, ""


def ask_all(model: str, runs: Sequence[dict[str, Any]], peers: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], Any, str]]:
    """Peer, run, answer and reason, for every run of one model; a question that has the same answer is asked once."""
    module, make_inputs = zoo.on_meta(model)
    flat = all(tensor.dim() != 4 for tensor in (*module.parameters(), *tree_leaves(make_inputs(1))))
    known: dict[Any, tuple[int | str, str]] = {}
    for run in runs:
        case = Case(
            name=model, module=module, make_inputs=make_inputs,
            dtype=run["dtype"], memory_format=run["memory_format"], batch=run["batch"],
        )  # fmt: skip
        for peer in peers:
            layout = run["memory_format"] if peer == "onnx_tool" or (peer in KNOWS_LAYOUTS and not flat) else None
            question = peer, run["dtype"], run["batch"], layout
            if question not in known:
                known[question] = ask(peer, case)
            yield peer, run, *known[question]


def write(path: Path, names: Sequence[str], lines: Sequence[dict[str, Any]]) -> None:
    """All lines of a file of ours."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main() -> None:
    """Ask, and write after every model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--models")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    peers, runs = options.peers.split(","), read_runs()[1]
    lines = {key_of(run): {name: run[name] for name in KEY} for run in runs}
    if PEERS_FILE.exists():
        lines |= {key_of(line): line for line in read_csv(PEERS_FILE)}
    failed = {(*key_of(line), line["peer"]): line for line in read_csv(FAILED)} if FAILED.exists() else {}
    for model in options.models.split(",") if options.models else dict.fromkeys(run["model"] for run in runs):
        own = [run for run in runs if run["model"] == model]
        for peer, run, answer, reason in ask_all(model, own, peers):
            lines[key_of(run)][peer] = answer
            failed.pop((*key_of(run), peer), None)
            if reason:
                failed[*key_of(run), peer] = {name: run[name] for name in KEY} | {"peer": peer, "reason": reason}
        write(PEERS_FILE, (*KEY, *PEERS), list(lines.values()))
        write(
            FAILED, (*KEY, "peer", "reason"), sorted(failed.values(), key=lambda line: (line["peer"], *map(str, key_of(line))))
        )
        print(model, len(own), flush=True)


if __name__ == "__main__":
    main()
