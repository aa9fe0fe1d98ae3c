"""Convolution workspace from cuDNN itself, asked without a GPU, with rules for what it cannot say there.

cuDNN 9.8 and later answer for a device that is only described. Its answer is PyTorch's: the same heuristics, the same filters,
the first configuration that builds (``cudnn_child``). Four things are different on the device and have a rule of their own:

- 1x1 kernels with stride 1: many are matrix products of cuBLASLt, which does not start there (``cublaslt_stand_in``). cuDNN
  says which, and under which limit; what cuBLASLt takes within it is looked up (``products``);
- Hopper kernels that share output tiles: how many blocks fit is not known (``segments``);
- an engine for depthwise kernels, which it offers on the device alone, and which takes nothing;
- everything where no library is installed or the child does not answer: the closed form (``convolution``).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vramplan.dtypes import DType
from vramplan.folders import cache_folder
from vramplan.gpus.catalogue import Gpu
from vramplan.ranges import Evidence, Range
from vramplan.units import MIB
from vramplan.workspace.convolution import ConvCall, conv_workspace, product_of
from vramplan.workspace.cudnn_cache import CudnnCache, Reply, is_reply
from vramplan.workspace.cudnn_devices import capability_of, device_json, has_real_description, is_described
from vramplan.workspace.cudnn_libraries import installed_libraries, pinned_version
from vramplan.workspace.cudnn_process import CudnnProcess, cudnn_process
from vramplan.workspace.products import limit_of, product_workspace
from vramplan.workspace.segments import Partial, is_modelled, partial_sums, shares_tiles

_DEPTHWISE_ENGINE = 57
"""Engine of fp16 depthwise kernels in cuDNN 9."""

_DEPTHWISE_KERNELS = (3, 5, 7)
"""Sides of the windows that the engine knows which cuDNN 9 names for depthwise convolutions on the device alone (5)."""

_FIRST_VERSION = 90800
_SPLIT_BYTES = 8 * MIB
"""What a split sum may add on a device like the H200: differences are smaller in 99.6 % of the measured calls."""

_SM_COUNT = 132
_WITHOUT_TENSOR_CORES = (6, 0)
"""A compute capability whose kernels are those that are left when none may use tensor cores."""
_DTYPES = (DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64)


@dataclass(frozen=True, slots=True, kw_only=True)
class CudnnFlags:
    """Which kernels count, and in which order cuDNN ranks them: what a program may set in ``torch.backends.cudnn``.

    tf32           fp32 convolutions may run in TF32 (PyTorch's default)
    tensor_cores   kernels of any type may use tensor cores; ONNX Runtime's ``use_tf32=0`` rules them out in half precision too
    deterministic  kernels that add in any order are skipped
    benchmark      every kernel is tried once, with the workspace that it asks for, and the fastest stays
    heuristic      A is PyTorch's; B is ONNX Runtime's under EXHAUSTIVE
    """

    tf32: bool = True
    tensor_cores: bool = True
    deterministic: bool = False
    benchmark: bool = False
    heuristic: str = "A"

    def use_tensor_cores(self, dtype: DType) -> bool:
        """Whether convolutions in *dtype* may use kernels on tensor cores."""
        return self.tensor_cores and (self.tf32 or dtype is not DType.FLOAT32)


DEFAULT_FLAGS = CudnnFlags()


class CudnnAnswers:
    """cuDNN's replies for one device description: from the disk, else from the child.

    ``version`` is cuDNN's (91900 for 9.19.0), or None before the child has told it.
    """

    def __init__(self, process: CudnnProcess, *, device: str, folder: Path, version: int | None) -> None:
        self.version = version
        self.unanswered_count = 0
        self._process, self._device, self._folder = process, device, folder
        self._cache: CudnnCache | None = None

    def replies(self, calls: Sequence[ConvCall], flags: CudnnFlags) -> list[Reply | None]:
        """One reply a call; None where there is none."""
        cache = self._opened()
        if cache is None:
            self.unanswered_count += len(calls)
            return [None] * len(calls)
        requests = [_request(call, flags) for call in calls]
        keys = [_key(request) for request in requests]
        unknown = {key: request for key, request in zip(keys, requests, strict=True) if cache.get(key) is None}
        asked = self._process.ask([{"device": self._device, "call": request} for request in unknown.values()])
        cache.add({key: reply for key, reply in zip(unknown, asked, strict=True) if reply is not None and is_reply(reply)})
        found = [cache.get(key) for key in keys]
        self.unanswered_count += sum(reply is None for reply in found)
        return found

    def save(self) -> None:
        """Keep new replies on the disk."""
        if self._cache is not None:
            self._cache.save()

    def _opened(self) -> CudnnCache | None:
        if self._cache is None:
            if self.version is None and self._process.start():
                self.version = self._process.version
            if self.version is None or self.version < _FIRST_VERSION:
                return None
            self._cache = CudnnCache(self._folder, version=self.version, device=self._device)
        return self._cache


def _request(call: ConvCall, flags: CudnnFlags) -> dict[str, object]:
    """*call* as the child wants it; one spatial dimension becomes two, as PyTorch does."""
    flat = len(call.stride) == 1

    def wide(shape: tuple[int, ...]) -> list[int]:
        return [*shape[:2], 1, *shape[2:]] if flat else list(shape)

    return {
        "dtype": call.dtype.value,
        "input_shape": wide(call.input_shape),
        "weight_shape": wide(call.weight_shape),
        "output_shape": wide(call.output_shape),
        "stride": [1] * flat + list(call.stride),
        "padding": [0] * flat + list(call.padding),
        "dilation": [1] * flat + list(call.dilation),
        "transposed": call.transposed,
        "channels_last": call.channels_last,
        "tensor_cores": flags.use_tensor_cores(call.dtype),
        "deterministic": flags.deterministic,
        "benchmark": flags.benchmark,
        "heuristic": flags.heuristic,
    }


def _key(request: Mapping[str, object]) -> str:
    """A digest that names *request* in the cache."""
    return hashlib.blake2b(json.dumps(request).encode(), digest_size=16).hexdigest()


class ConvWorkspaces:
    """Workspaces of convolutions on one device, by cuDNN where *answers* are given, else in closed form.

    Nothing here raises for a child that fails; `note` says who answered.
    """

    def __init__(self, gpu: Gpu | None, *, answers: CudnnAnswers | None, flags: CudnnFlags = DEFAULT_FLAGS) -> None:
        self._capability = capability_of(gpu) if gpu else None
        self._sm_count = gpu.sm_count if gpu else None
        self._is_real = gpu is not None and has_real_description(gpu)
        self._name = gpu.name if gpu else ""
        self.flags, self._answers = flags, answers
        self._known: dict[ConvCall, Range] = {}
        self.measured_count = 0
        """Calls whose workspace was measured on this card (`remember`)."""

    def of(self, call: ConvCall) -> Range:
        """Bytes of scratch for one *call*."""
        return self.of_many([call])[0]

    def of_many(self, calls: Sequence[ConvCall]) -> list[Range]:
        """Bytes of scratch for each of *calls*; new ones are asked together."""
        new = [call for call in dict.fromkeys(calls) if call not in self._known]
        for call, reply in zip(new, self._replies(new), strict=True):
            self._known[call] = self._range(call, reply)
        return [self._known[call] for call in calls]

    @property
    def is_by_cudnn(self) -> bool:
        """Whether cuDNN answers, in a version that can without a GPU."""
        answers = self._answers
        return answers is not None and answers.version is not None and answers.version >= _FIRST_VERSION

    def save(self) -> None:
        """Keep new answers on the disk, for the next process."""
        if self._answers is not None:
            self._answers.save()

    @property
    def note(self) -> str:
        """One sentence: who answers, in which version."""
        answers = self._answers
        if answers is None:
            return (
                "Convolution workspace is a closed-form bound; cuDNN, where installed, says more about cards from compute"
                " capability 7.5 on: pip install 'vramplan[cudnn]'"
            )
        if answers.version is None:
            return "Convolution workspace is a closed-form bound: cuDNN is installed but did not start."
        version = f"{answers.version // 10_000}.{answers.version // 100 % 100}.{answers.version % 100}"
        if answers.version < _FIRST_VERSION:
            return f"Convolution workspace is a closed-form bound: cuDNN {version} needs a GPU to answer, 9.8 and later do not."
        wanted = pinned_version()
        is_other = wanted not in (None, version)
        other = f"; your PyTorch runs cuDNN {wanted}, which may ask for other workspaces" if is_other else ""
        described = "read from such a card" if self._is_real else "built from the catalogue"
        text = f"Convolution workspace is the answer of cuDNN {version} for {self._name} (description {described}){other}"
        if answers.unanswered_count:
            text += f"; {answers.unanswered_count} calls it did not answer are closed-form bounds"
        if self.measured_count:
            text += f"; {self.measured_count} calls were measured on such a card"
        return f"{text}."

    def _replies(self, calls: Sequence[ConvCall]) -> list[Reply | None]:
        if self._answers is None:
            return [None] * len(calls)
        asked = [call for call in calls if call.dtype in _DTYPES and math.prod(call.output_shape) > 0]
        known = dict(zip(asked, self._answers.replies(asked, self.flags) if asked else (), strict=True))
        return [known.get(call) for call in calls]

    def _range(self, call: ConvCall, reply: Reply | None) -> Range:
        if reply is not None and reply.get("is_measured") and reply["bytes"] is not None:
            self.measured_count += 1
            return _measured(reply["bytes"])
        size = self._chosen(call, reply)
        return _tried(size, reply) if self.flags.benchmark else size

    def _chosen(self, call: ConvCall, reply: Reply | None) -> Range:
        """The workspace of the kernel that is ranked first."""
        closed = self._closed_form(call)
        if reply is None or reply["bytes"] is None:
            return closed
        if call.is_pointwise and reply.get("unranked"):
            return _bounded(0, closed.nominal_bytes, max(closed.nominal_bytes, reply["bytes"]) + self._split_bytes())
        limit_bytes = limit_of(reply) if call.is_pointwise else None
        if limit_bytes is not None:
            return product_workspace(product_of(call), limit_bytes, self._capability)
        if call.is_depthwise and (reply.get("engine") == _DEPTHWISE_ENGINE or self._has_own_kernel(call)):
            return _bounded(0, 0, reply["bytes"])
        knobs = {int(key): value for key, value in reply.get("knobs", {}).items()}
        unshared = reply.get("unshared_bytes")
        if unshared is not None and shares_tiles(knobs):
            return self._shared(call, knobs, reply["bytes"], unshared)
        return _bounded(reply["bytes"], reply["bytes"], reply["bytes"] + (0 if self._is_real else self._split_bytes()))

    def _has_own_kernel(self, call: ConvCall) -> bool:
        """Whether Hopper's own depthwise engine can run *call*: it did in 1,380 of 1,426 such calls, and took nothing."""
        kernel = call.weight_shape[2:]
        is_square = len(kernel) == 2 and kernel[0] == kernel[1] and kernel[0] in _DEPTHWISE_KERNELS
        is_plain = is_square and set(call.dilation) == {1} and call.weight_shape[0] == call.input_shape[1]
        return self._capability == (9, 0) and is_plain and not call.transposed

    def _shared(self, call: ConvCall, knobs: Mapping[int, int], answer_bytes: int, unshared_bytes: int) -> Range:
        """Only Hopper's clusters are known; elsewhere cuDNN's own guess stands. Below the likely bytes where trees disagree."""
        found = Partial(max(0, answer_bytes - unshared_bytes), 0, 0)
        if self._capability == (9, 0) and self._sm_count is not None and is_modelled(knobs, call):
            found = partial_sums(call, knobs, self._sm_count)
        is_agreed = found.low_bytes == found.nominal_bytes == found.high_bytes
        nominal = unshared_bytes + found.nominal_bytes
        high = max(answer_bytes, nominal, unshared_bytes + max(found.high_bytes, 2 * self._split_bytes()))
        return _bounded(nominal if is_agreed else unshared_bytes, nominal, high)

    def _closed_form(self, call: ConvCall) -> Range:
        capability = self._capability if self.flags.use_tensor_cores(call.dtype) else _WITHOUT_TENSOR_CORES
        return conv_workspace(call, capability, self._sm_count)

    def _split_bytes(self) -> int:
        return _SPLIT_BYTES * (self._sm_count or _SM_COUNT) // _SM_COUNT


def remember(found: Mapping[ConvCall, int], gpu: Gpu, *, version: int, flags: CudnnFlags = DEFAULT_FLAGS) -> None:
    """Keep workspaces that were measured on *gpu* with cuDNN *version* (91900 for 9.19.0), in bytes, for later estimates.

    They come before cuDNN's own answers for that card, where the same version answers, and have evidence ``measured``.
    """
    cache = CudnnCache(cache_folder(), version=version, device=device_json(gpu))
    cache.add({_key(_request(call, flags)): {"bytes": size, "is_measured": True} for call, size in found.items()})
    cache.save()


def _measured(size_bytes: int) -> Range:
    return Range(low_bytes=size_bytes, nominal_bytes=size_bytes, high_bytes=size_bytes, evidence=Evidence.MEASURED)


def _tried(first: Range, reply: Reply | None) -> Range:
    """What a benchmark takes: once the largest workspace of all kernels, afterwards that of the fastest, whichever it is."""
    if reply is None or "largest_bytes" not in reply:
        return _bounded(0, first.high_bytes, first.high_bytes)
    largest = max(reply["largest_bytes"], first.high_bytes)
    return _bounded(min(reply["least_bytes"], first.low_bytes), largest, largest)


def _bounded(low: int, nominal: int, high: int) -> Range:
    return Range(low_bytes=low, nominal_bytes=nominal, high_bytes=high, evidence=Evidence.BOUNDED)


def conv_workspaces(
    gpu: Gpu | None, *, flags: CudnnFlags = DEFAULT_FLAGS, libraries: Sequence[str] | None = None
) -> ConvWorkspaces:
    """Workspaces on *gpu*: by cuDNN where its libraries are and *gpu* can be described to it, else in closed form.

    ``libraries`` are paths to load instead of the installed ones; none at all asks for the closed form.
    """
    paths = installed_libraries() if libraries is None else tuple(libraries)
    if gpu is None or not paths or not is_described(gpu):
        return ConvWorkspaces(gpu, answers=None, flags=flags)
    answers = CudnnAnswers(cudnn_process(paths), device=device_json(gpu), folder=cache_folder(), version=header_version(paths))
    return ConvWorkspaces(gpu, answers=answers, flags=flags)


def header_version(libraries: Sequence[str]) -> int | None:
    """Version of cuDNN from the header beside its libraries, so that a warm cache needs no child; None without a header."""
    library = next((Path(path) for path in libraries if "libcudnn_graph" in path), Path())
    try:
        text = (library.parent.parent / "include" / "cudnn_version.h").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    numbers = [re.search(rf"#define CUDNN_{part} (\d+)", text) for part in ("MAJOR", "MINOR", "PATCHLEVEL")]
    if not all(numbers):
        return None
    major, minor, patch = (int(number.group(1)) for number in numbers if number)
    return major * 10_000 + minor * 100 + patch
