"""What `estimate`, `replay`, `diff`, `check` and a lock file say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tests.docs.contract_base import (
    MAYBE,
    Bytes,
    Count,
    Evidence,
    Format,
    KnownSizes,
    Object,
    Output,
    PartBytes,
    PartEvidence,
    PartLimits,
    PartSizes,
    Sizes,
    Text,
)


class Declared(Object):
    name: str
    """The tensor's name."""
    dims: list[int | str] | None
    """Numbers, names of dynamic dimensions, `?`; null where not even the rank is known."""


class Bound(Object):
    name: str
    """The tensor's name."""
    dtype: str
    """The element type at this precision; empty where a recording does not say."""
    shape: list[Count] | None
    """The shape in this cell; null where it depends on the data."""
    size_bytes: Bytes
    """Its size."""


class Model(Object):
    name: Text
    """The file, or the name of a built-in model."""
    format: Format
    """What kind of model it is."""
    sha256: str
    """The hash of the file; empty where there is none."""
    parameters: Count | None
    """A number of elements; null where nobody knows."""
    inputs: list[Declared]
    """As the model declares them."""
    outputs: list[Declared]
    """As the model declares them."""


class UsableGpu(Object):
    key: Text
    """The catalogue's name."""
    name: Text
    """The vendor's name."""
    usable_bytes: Bytes
    """What a program can allocate on an idle card."""
    usable_low_bytes: Bytes
    """The least of it."""
    usable_high_bytes: Bytes
    """The most of it."""
    evidence: Evidence
    """What that rests on."""
    reason: Text
    """The rule or the source."""


class Phase(Object):
    allocated_peak_bytes: Bytes
    """The most that buffers hold in the phase."""
    reserved_peak_bytes: Bytes
    """The most that the runtime's allocator holds."""
    process_bytes: Bytes = MAYBE
    """What the process takes of the card at the phase's end, context included (ONNX Runtime)."""


class Live(Object):
    name: str
    """The tensor's, or what it is."""
    role: Text
    """`weight`, `input`, `activation`, `output` or `workspace`."""
    size_bytes: Bytes
    """Its size."""
    until: str
    """The op that lets it go; empty when nothing does."""


class Peak(Object):
    op: str
    """What runs at the peak."""
    index: Count
    """Its position in execution order; 0 is loading."""
    live: list[Live]
    """All that is alive, the largest first."""


class Coverage(Object):
    ops: Count
    """Operations of the model."""
    exact: Count
    """Those whose memory follows from shapes."""
    measured: Count
    """Those whose memory was measured."""
    bounded: Count
    """Those whose memory lies within limits."""
    unmodelled: list[Text]
    """Names of those that nothing is known of; they widen the range."""


class Kept(Object):
    op: Text
    """Whose tensors they are."""
    dtype: Text
    """The wider type."""
    reason: Text
    """Why it stays."""
    tensor_count: Count
    """How many."""
    size_bytes: Bytes
    """Their sum."""


class Profile(Object):
    max_shapes: dict[str, list[Count]]
    """The shapes that the engine is built for, by input."""
    context_bytes: Bytes
    """What an execution context holds for them."""
    needed_bytes: Bytes
    """What the shapes of this cell would need."""
    idle_ratio: float
    """The share that idles."""


class Layer(Object):
    name: str
    """The first op of the launch."""
    kind: Text
    """What it does."""
    ops: list[str]
    """The operators that run in it."""
    dtype: str
    """The type of its result; empty where the runtime model does not say."""
    output_shape: list[Count] | None
    """The shape of its result; null where it depends on the data."""
    output_bytes: Bytes
    """Its result."""
    weights_bytes: Bytes
    """Its weights."""
    workspace_bytes: Bytes
    """Its scratch memory."""
    live_bytes: Bytes
    """All that is alive while it runs."""
    op_index: Count | None
    """Its op's position in execution order; null where it has none."""
    remedy: str
    """What would spare it most of its workspace; empty where nothing would."""


class AccountLine(Object):
    name: Text
    """Where bytes go."""
    size_bytes: int
    """How many; negative where something makes the process smaller."""


class Run(Object):
    shapes: dict[str, list[Count]]
    """The shape of each input of this run."""
    allocated_peak_bytes: Bytes
    """The most that the arena had handed out."""
    reserved_peak_bytes: Bytes
    """The most that the arena held."""
    process_bytes: Bytes
    """What the process takes after it."""


class NamedBytes(Object):
    name: str
    """A tensor's."""
    size_bytes: Bytes
    """Its size."""


class Fallback(Object):
    node: str
    """A node that runs on the CPU, because there is no CUDA kernel for its op."""
    op: Text
    """Its op."""
    to_cpu: list[NamedBytes]
    """What is copied to the CPU for it at every run."""
    to_gpu: list[NamedBytes]
    """What is copied back, and has a buffer on the GPU."""


class EstimateRow(Object):
    """One cell: a runtime, a precision, a batch, a memory format."""

    runtime: Literal["tensorrt", "torch", "onnxruntime"]
    """What runs the model."""
    precision: Text
    """`fp32`, `fp16`, `bf16`, `fp8`, `int8`, `int4`, `as-is`, `autocast-fp16`, `autocast-bf16`."""
    batch: Count | None
    """Items at once; null where the model has no batch dimension."""
    memory_format: Text
    """`contiguous` or `channels_last` (PyTorch), else the runtime's own."""
    inputs: list[Bound]
    """As bound in this cell."""
    outputs: list[Bound]
    """As bound in this cell."""
    budget: PartBytes  # type: ignore[valid-type]
    """What is held at the moment of the peak. The parts sum to `total_bytes`."""
    ranges: PartLimits  # type: ignore[valid-type]
    """The limits of each part."""
    evidence: PartEvidence  # type: ignore[valid-type]
    """What each part rests on."""
    context_reason: Text | None
    """Where the context's size is from; null without a GPU."""
    total_bytes: Bytes
    """The process as NVML (`nvidia-smi`) would show it."""
    total_low_bytes: Bytes
    """The least it can take."""
    total_high_bytes: Bytes
    """The most it may take."""
    phases: dict[str, Phase]
    """PyTorch: `load`, `first_run`, `steady`. TensorRT: `engine` (weights as stored), `context` (what `device_memory_size_v2`
    would say). ONNX Runtime: `session`, `run1`, `run2`, `steady` (the fourth run)."""
    lower_bound_bytes: Bytes
    """The largest live set of what the runtime places itself: no allocator does with less."""
    sum_of_outputs_bytes: Bytes
    """What all results would take if nothing were ever freed."""
    peak: Peak
    """Where the peak is, and who is alive."""
    coverage: Coverage
    """How many ops are modelled, and how well."""
    kept: list[Kept]
    """What the precision leaves in a wider type."""
    profile: Profile | None
    """An engine that is built for larger shapes (`--max-shape`); null without."""
    notes: list[Text]
    """Doubts about the result."""
    fallbacks: list[Fallback]
    """ONNX Runtime: nodes that run on the CPU, and the copies that they cause; empty for other runtimes."""
    runs: list[Run] = MAYBE
    """ONNX Runtime, with several shapes for an input: two rounds of runs, in the order they were given."""
    account: list[AccountLine] = MAYBE
    """ONNX Runtime: where the bytes of the process go; the lines sum to `total_bytes`."""
    layers: list[Layer] = MAYBE
    """With `--layers`: every launch, in execution order."""


class Try(Object):
    flags: Text
    """What to type."""
    total_bytes: Bytes
    """What the total is then: solved, not guessed."""
    text: Text
    """Both in words."""


class Verdict(Object):
    fits: bool | None
    """Whether every cell fits; null without a limit."""
    limit_bytes: Bytes | None
    """The budget, or what is usable of the card."""
    limit_name: Text | None
    """Which of them."""
    headroom_bytes: int | None
    """What the largest cell leaves; negative when it is over."""
    sentence: Text
    """The answer in one sentence."""
    try_: list[Try] = Field(alias="try")
    """Up to three changes that help."""


class Estimate(Output):
    """What `vramplan estimate --json` prints: one object, sizes in bytes."""

    model: Model
    """Which model was read."""
    gpu: UsableGpu | None
    """The card; null when none was named."""
    rows: list[EstimateRow]
    """One for each runtime, precision and batch, in the order they were asked for."""
    notes: list[Text]
    """What no single row says: which rows there are not, and why."""
    verdict: Verdict
    """Whether it fits, and what would help."""


class Counter(Object):
    phase: Text
    """A phase of the recording."""
    name: Text
    """A counter of PyTorch's allocator, such as `reserved_peak_bytes`."""
    measured_bytes: Bytes
    """As the device had it."""
    replayed_bytes: Bytes
    """As the replay has it."""
    difference_bytes: int
    """Replayed less measured."""


class Replay(Estimate):
    """What `vramplan replay --json` prints: the object of an estimate, and the device's counters."""

    environment: dict[str, str]
    """Where it was recorded: gpu, driver, torch and so on."""
    counters: list[Counter]
    """Every counter that was recorded."""
    counters_are_equal: bool | None
    """Whether the replay has all of them to the byte; null when none was recorded."""


class Change(Object):
    name: str
    """The part, tensor or layer."""
    role: Text
    """`part`, the role of a tensor, or the kind of a layer."""
    before_bytes: Bytes | None
    """On the first side; null where a lock file's short list leaves it out."""
    after_bytes: Bytes | None
    """On the second side, likewise."""
    change_bytes: int
    """How much more the second has."""
    is_least: bool
    """Whether the change is a lower bound, because one side is not known."""


class Side(Object):
    label: Text
    """What it is a budget of."""
    peak_op: str
    """What runs at its peak."""
    total: KnownSizes
    """The process."""
    budget: PartSizes  # type: ignore[valid-type]
    """Its parts."""


class Comparison(Object):
    before: Side
    """The first."""
    after: Side
    """The second."""
    change_bytes: int
    """How much more the second takes than the first."""
    change_ratio: float | None
    """The same as a share of the first; null when that takes nothing."""
    parts: list[Change]
    """Parts that differ, the largest change first."""
    tensors: list[Change]
    """Tensors alive at the peak that differ."""
    layers: list[Change]
    """Layers whose result, weights and workspace differ."""


class Diff(Output):
    """What `vramplan diff --json` prints."""

    pairs: list[Comparison]
    """One for two models; one for each common cell of two lock files."""
    only_before: list[Text]
    """Cells that only the first lock file has."""
    only_after: list[Text]
    """Cells that only the second has."""


class Finding(Object):
    model: Text
    """As the lock file names it."""
    cell: Text | None
    """Runtime, precision, batch and card; null where the model cannot be read at all."""
    outcome: Literal["unreadable", "over", "grew", "unlocked", "shrank", "within"]
    """What became of the budget."""
    holds: bool
    """Whether a gate lets it through."""
    tolerance_ratio: float
    """How far the total may grow."""
    limit_bytes: Bytes | None
    """What the process may take; null without a limit."""
    limit_name: Text | None
    """The budget or the card."""
    over_bytes: Bytes
    """How much more than the limit it takes; 0 when it fits."""
    error: Text | None
    """Why there is no estimate."""
    hint: Text | None
    """What to do about that."""
    comparison: Comparison | None
    """The locked budget beside the present one; null where one of them is missing."""


class Check(Output):
    """What `vramplan check --json` prints."""

    lock: Text
    """The lock file."""
    holds: bool
    """Whether all budgets hold."""
    findings: list[Finding]
    """One for each locked budget."""
    notes: list[Text]
    """Circumstances that changed."""


class LockedRow(Object):
    name: str
    """A tensor or a layer."""
    role: Text
    """Its role or kind."""
    size_bytes: Bytes
    """Its size."""


class LockedPhase(Object):
    allocated_peak_bytes: Bytes
    """The most that buffers hold."""
    reserved_peak_bytes: Bytes
    """The most that the allocator holds."""
    process_bytes: Bytes = MAYBE
    """What the process takes at its end (ONNX Runtime)."""


class LockedCell(Object):
    runtime: Text
    """What runs the model."""
    precision: Text
    """The precision."""
    batch: Count | None
    """Items at once; null for the model's own choice."""
    memory_format: Text | None
    """PyTorch's; null for the runtime's own."""
    gpu: Text | None
    """The card; null for none."""
    total: Sizes
    """The process."""
    budget: PartSizes  # type: ignore[valid-type]
    """Its parts."""
    phases: dict[str, LockedPhase]
    """As in an estimate."""
    peak_op: str
    """What runs at the peak."""
    tensor_count: Count
    """Tensors that are alive at the peak."""
    tensors: list[LockedRow]
    """The largest of them."""
    layer_count: Count
    """Layers of the model."""
    layers: list[LockedRow]
    """The largest of them."""


class LockedModel(Object):
    model: Text
    """The file, relative to the lock file's folder, or the name of a built-in model."""
    shapes: dict[str, list[Count]]
    """Shapes of inputs that were asked for."""
    dims: dict[str, Count]
    """Dynamic dimensions that were asked for."""
    budget_bytes: Bytes | None
    """What each cell may take; null for no limit of its own."""
    tolerance: Text
    """How far a total may grow, as `5%`."""
    format: Format
    """What kind of model it is."""
    sha256: str
    """The file's hash when it was locked."""
    parameters: Count | None
    """Its elements."""
    versions: dict[str, str]
    """What estimated it."""
    cells: list[LockedCell]
    """Its budgets."""


class Lock(Output):
    """`vramplan.lock.json`, as `vramplan lock` writes it."""

    lock: Literal["vramplan"]
    """What kind of file it is."""
    models: list[LockedModel]
    """In the order of their names."""
