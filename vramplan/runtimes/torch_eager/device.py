"""The CUDA device that is not there: what Python code sees while a module is traced.

Shadow tensors live on ``meta``, so that no kernel runs and no bytes are needed. To the traced code they say that they are on
``cuda:0``, and everything it asks of that device is answered on ``meta``: factories, ``.to``, ``.cuda``. Tensors that a model
keeps on the CPU stay real.

Nothing here needs a CUDA build of PyTorch, or touches the driver of one.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
META = torch.device("meta")

Function = Callable[..., Any]

_TENSOR: Any = torch.Tensor

_ANSWERS: dict[Function, Callable[[torch.Tensor], Any]] = {
    _TENSOR.device.__get__: lambda tensor: CUDA,
    _TENSOR.is_cuda.__get__: lambda tensor: True,
    _TENSOR.is_meta.__get__: lambda tensor: False,
    torch.Tensor.get_device: lambda tensor: 0,
}
"""What a shadow tensor says about itself."""


class CudaLooks(TorchFunctionMode):
    """Shadow tensors look like CUDA tensors, and requests for a CUDA device are answered with shadows.

    ``narrow`` is the type of the autocast block that the last call stood in (None: in none). Dispatch modes run below autocast
    and cannot see it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.narrow: torch.dtype | None = None

    def __torch_function__(self, func: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer questions about devices; pass everything else on with the device exchanged."""
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(args[0]) if _is_shadow(args[0]) else func(*args)
        self.narrow = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        if func in _PLACES:
            return _PLACES[func](args[0])
        if func in _MAKES_FROM_DATA:
            return _from_data(func, args, kwargs or {})
        if kwargs:
            device = kwargs.get("device")
            if device is not None and is_cuda(device):
                kwargs = {**kwargs, "device": META}
            return func(*map(_exchanged, args), **kwargs)
        for arg in args:
            if type(arg) is str or type(arg) is torch.device:
                return func(*map(_exchanged, args))
        return func(*args)


_PLACES: dict[Function, Callable[[torch.Tensor], Any]] = {
    torch.Tensor.cuda: lambda tensor: tensor.to(META),
    torch.Tensor.pin_memory: lambda tensor: tensor,
}
"""Requests for a place, answered without a device."""

_MAKES_FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.Tensor.new_tensor})


def _from_data(func: Function, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """Data from Python goes through the CPU, so that its elements stay known."""
    device = kwargs.pop("device", None) if kwargs.get("device") is not None else None
    if func is torch.Tensor.new_tensor:
        owner, *args = args
        kwargs = {"dtype": owner.dtype, **kwargs}
        device = device or (META if owner.is_meta else None)
    made: torch.Tensor = torch.as_tensor(*args, **kwargs) if func is torch.as_tensor else torch.tensor(*args, **kwargs)
    on_device = device is not None and (is_cuda(device) or device == META)
    return made.to(META) if on_device else made if device is None else made.to(device)


def is_cuda(device: Any) -> bool:
    """Whether *device* names a CUDA device: ``"cuda"``, ``"cuda:0"``, ``torch.device("cuda")``, ``0``."""
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return device.partition(":")[0] == "cuda" if isinstance(device, str) else type(device) is int


def _exchanged(arg: Any) -> Any:
    if type(arg) is torch.device:
        return META if arg.type == "cuda" else arg
    return META if type(arg) is str and arg.partition(":")[0] == "cuda" else arg


def _is_shadow(tensor: torch.Tensor) -> bool:
    return tensor.is_meta


@contextlib.contextmanager
def pretended(capability: tuple[int, int]) -> Iterator[None]:
    """While this is open, Python code meets a machine with one CUDA device of compute *capability*.

    Python's cyclic garbage collector rests: on a device it runs at moments that nobody can predict, so cycles are taken to
    stay. Not for several threads at once: it replaces functions of the torch module.
    """
    never = {"return_value": False}
    fakes: tuple[tuple[str, dict[str, Any]], ...] = (
        # Inside torch's own functions a mode counts as an override, which would turn fast paths off and hold arguments longer.
        ("torch.overrides.has_torch_function", never),
        ("torch.nn.functional.has_torch_function", never),
        ("torch.nn.functional.has_torch_function_unary", never),
        ("torch.nn.functional.has_torch_function_variadic", never),
        ("torch.functional.has_torch_function", never),
        ("torch.functional.has_torch_function_unary", never),
        ("torch.functional.has_torch_function_variadic", never),
        ("torch._tensor.has_torch_function", never),
        ("torch._tensor.has_torch_function_unary", never),
        ("torch._tensor.has_torch_function_variadic", never),
        ("torch.cuda.is_available", {"return_value": True}),
        ("torch.cuda.device_count", {"return_value": 1}),
        ("torch.cuda.current_device", {"return_value": 0}),
        ("torch.cuda.get_device_capability", {"return_value": capability}),
        ("torch.cuda.is_bf16_supported", {"return_value": capability >= (8, 0)}),
        ("torch.cuda.synchronize", {"return_value": None}),
        ("torch.cuda.empty_cache", {"return_value": None}),
        ("torch.cuda.amp.common.amp_definitely_not_available", never),
        ("torch.backends.cudnn.is_acceptable", never),  # asked by RNNs, to lay their weights out anew; warns without cuDNN
        ("torch.cuda.get_device_name", {"return_value": "CUDA device"}),
        ("torch.cuda.device", {"return_value": contextlib.nullcontext()}),
    )
    was_enabled = gc.isenabled()
    with contextlib.ExitStack() as stack:
        for name, settings in fakes:
            stack.enter_context(mock.patch(name, _fake(**settings)))
        stack.enter_context(mock.patch("torch._tensor_str._str", _shown(torch._tensor_str._str)))
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


def _fake(return_value: Any) -> Function:
    return lambda *args, **kwargs: return_value


def _shown(original: Function) -> Function:
    """``repr`` of a shadow, whose elements nobody can print."""

    def shown(tensor: torch.Tensor, **options: Any) -> Any:
        if not tensor.is_cuda:
            return original(tensor, **options)
        return f"tensor(..., device='cuda:0', size={tuple(tensor.shape)}, dtype={tensor.dtype})"

    return shown
