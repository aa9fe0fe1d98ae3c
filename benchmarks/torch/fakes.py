"""A model of the zoo run on fake tensors that say they are on ``cuda``: for the peers that need a forward, without a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from record import AUTOCAST, DTYPES, FORMATS, block
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map

MakeInputs = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run, as a peer is asked about it.

    Invariant: ``module`` is in fp32 and is never changed; it lies on meta, or on the CPU where it cannot be built on meta.
    """

    name: str
    module: nn.Module
    make_inputs: MakeInputs
    dtype: str
    memory_format: str
    batch: int

    @property
    def cast(self) -> torch.dtype:
        """The element type of weights and inputs; under autocast they stay fp32."""
        return DTYPES.get(self.dtype, torch.float32)

    def weights_bytes(self) -> int:
        """Parameters and buffers in the run's type, tied ones once."""
        distinct = {id(tensor): tensor for tensor in (*self.module.parameters(), *self.module.buffers())}
        return sum(
            tensor.numel() * (self.cast.itemsize if tensor.is_floating_point() else tensor.element_size())
            for tensor in distinct.values()
        )


def bytes_of(values: Sequence[Any]) -> int:
    """Bytes of the tensors among *values*, each once."""
    distinct = {id(value): value for value in values if isinstance(value, torch.Tensor)}
    return sum(tensor.nbytes for tensor in distinct.values())


def on_fakes(case: Case, run: Callable[[nn.Module, Any, Any], Any]) -> Any:
    """What *run* answers for the module and its inputs; in inference mode where it fails under ``no_grad``."""
    try:
        return _attempt(case, run, torch.no_grad())
    except TimeoutError:
        raise
    except Exception:
        return _attempt(case, run, torch.inference_mode())


def _attempt(case: Case, run: Callable[[nn.Module, Any, Any], Any], without_gradients: Any) -> Any:
    module = copy.deepcopy(case.module)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _replace_tensors(module, case)
        args, kwargs = tree_map(lambda value: _fake(value, case), case.make_inputs(case.batch))
        with without_gradients, block(AUTOCAST.get(case.dtype)):
            return run(module, args, kwargs)


def _fake(value: Any, case: Case) -> Any:
    """A tensor as it would lie on the card, in the run's type and layout; anything else unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    dtype = case.cast if value.is_floating_point() else value.dtype
    made = torch.empty_strided(value.shape, value.stride(), dtype=dtype, device="cuda")
    return made.to(memory_format=FORMATS[case.memory_format]) if made.dim() == 4 else made


def _replace_tensors(module: nn.Module, case: Case) -> None:
    """Every parameter and buffer by its fake; tied ones stay tied. ``Module.to`` refuses to do this under the mode."""
    made: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = _fake(tensor, case)
                    made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
                store[name] = made[id(tensor)]
        if isinstance(part, nn.RNNBase):  # it keeps a list of its weights beside the registered ones
            part._flat_weights = [getattr(part, name) for name in part._flat_weights_names]
