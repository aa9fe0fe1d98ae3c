"""A PyTorch model as a child process runs it: opened, given values and inputs, cast on the host, moved to the device."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from vramplan.device.torch_device import DEVICE
from vramplan.errors import UsageError
from vramplan.precision import Policy, find_policy
from vramplan.runtimes.torch_eager.dtypes import torch_type
from vramplan.runtimes.torch_eager.layouts import channels_last_of
from vramplan.sources.torch_inputs import Inputs, bind_inputs
from vramplan.sources.torch_model import TorchModel
from vramplan.sources.torch_module import open_torch
from vramplan.sources.torch_trees import map_tensors

"""The parent shows the process one GPU only."""

_COUNTERS = ("requested", "allocated", "reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model on the host, cast, with inputs; ``forward`` calls it as the estimate supposes."""

    model: TorchModel
    inputs: Inputs
    policy: Policy
    channels_last: bool

    @property
    def module(self) -> nn.Module:
        """The module itself."""
        module: nn.Module = self.model.module  # type: ignore[assignment]  # `open_subject` has looked
        return module

    def cast(self) -> None:
        """Floats take the policy's type, on the host; what is on the meta device gets values first."""
        materialise(self.module)
        dtype = torch_type(self.policy.float_type)
        if dtype is not None:
            self.module.to(dtype)

    def move(self) -> nn.Module:
        """The module on the device."""
        if not self.channels_last:
            return self.module.to(DEVICE)
        dims = max((tensor.dim() for tensor in self.module.parameters()), default=4)
        module: Any = self.module
        moved: nn.Module = module.to(DEVICE, memory_format=channels_last_of(5 if dims == 5 else 4))
        return moved

    def move_inputs(self) -> tuple[Any, Any]:
        """Arguments and keyword arguments on the device."""
        given = (self.inputs.args, dict(self.inputs.kwargs))
        args, kwargs = tree_map(lambda item: map_tensors("input", item, self._moved), given)
        return args, kwargs

    def forward(self, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """One forward, in an autocast block when the policy wants one."""
        narrow = torch_type(self.policy.autocast_type)
        with torch.autocast("cuda", dtype=narrow) if narrow else contextlib.nullcontext():
            return self.module(*args, **kwargs)

    def _moved(self, _: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = with_values(tensor)
        dtype = torch_type(self.policy.float_type)
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        if self.channels_last and tensor.dim() in (4, 5):
            tensor = tensor.to(memory_format=channels_last_of(tensor.dim()))
        return tensor.to(DEVICE)


def materialise(module: nn.Module) -> None:
    """Give tensors on the meta device values, in place; one that is shared stays shared."""
    made: dict[int, torch.Tensor] = {}
    for part in module.modules():
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for table in tables:
            for name, tensor in list(table.items()):
                if tensor is not None and tensor.is_meta:
                    table[name] = made.setdefault(id(tensor), _like(tensor))


def with_values(tensor: torch.Tensor) -> torch.Tensor:
    """*tensor* with values, when it has none: floats of a picture, zeros for indices and masks of ones."""
    if not tensor.is_meta:
        return tensor.detach()
    strided = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if tensor.is_floating_point():
        return strided.uniform_(0, 1)
    return strided.fill_(1) if tensor.dtype is torch.bool else strided.zero_()


def _like(tensor: Any) -> Any:
    """Small values for a weight, ones for a buffer: a variance must not be zero."""
    with torch.no_grad():
        values = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            values = values.normal_(0, 0.02) if values.is_floating_point() else values.zero_()
            return nn.Parameter(values, requires_grad=tensor.requires_grad)
        return values.fill_(1)


def counters() -> dict[str, int]:
    """What the allocator counts, in bytes: now, and the most since the peaks were reset; retries and driver calls."""
    stats = torch.cuda.memory_stats(DEVICE)
    found = {f"{name}_bytes": int(stats.get(f"{name}_bytes.all.current", 0)) for name in _COUNTERS}
    found |= {f"{name}_peak_bytes": int(stats.get(f"{name}_bytes.all.peak", 0)) for name in _COUNTERS}
    return found | {
        "retry_count": int(stats.get("num_alloc_retries", 0)),
        "device_alloc_count": int(stats.get("num_device_alloc", 0)),
    }


def open_subject(request: Mapping[str, Any]) -> Subject:
    """Read the model and its inputs, as the estimate did."""
    policy = find_policy(request["precision"])
    if policy.weight_type is not None:
        raise UsageError(
            f"{policy.name} keeps weights as torchao stores them, and vramplan does not quantise for a run",
            hint="Measure fp32, fp16, bf16 or autocast-fp16; a factory may return a module that is quantised already.",
        )
    model = open_torch(request["model"], allow_pickle=request["allow_pickle"])
    if not isinstance(model.module, nn.Module):
        raise UsageError(
            f"{model.name} holds weights only: there is nothing to run", hint="Name a factory that builds the model."
        )
    inputs = bind_inputs(
        model,
        batch=request["batch"],
        shapes={name: tuple(shape) for name, shape in request["shapes"].items()},
        dims=request["dims"],
    )
    channels_last = request["memory_format"] == "channels_last"
    return Subject(model=model, inputs=inputs, policy=policy, channels_last=channels_last)
