"""What the commands say that ask this machine's GPU."""

from __future__ import annotations

from typing import Literal

from tests.docs.contract_base import Bytes, Count, Evidence, Object, Output, Text


class MeasuredPhase(Object):
    process_bytes: Bytes
    """What the card has less than before the process, by the driver, at the end of the phase."""
    requested_bytes: Bytes | None
    """What tensors asked for; null where the runtime has no counters (ONNX Runtime), as below."""
    allocated_bytes: Bytes | None
    """What tensors hold, rounded by the allocator."""
    reserved_bytes: Bytes | None
    """What the allocator holds of the driver."""
    requested_peak_bytes: Bytes | None
    """The most within the phase."""
    allocated_peak_bytes: Bytes | None
    """The most within the phase."""
    reserved_peak_bytes: Bytes | None
    """The most within the phase."""
    retry_count: Count
    """Allocations that first had to give memory back, since the process began."""
    device_alloc_count: Count
    """Allocations that went to the driver, since the process began."""
    context_bytes: int | None
    """What the process holds beyond its allocator."""
    process_peak_bytes: Bytes
    """The most the process took."""


class ContextStep(Object):
    name: Text
    """`init`, `first_kernel`, `first_convolution`, `first_gemm`."""
    context_bytes: int
    """What the process held beyond its allocator then."""
    where: str
    """The module that took it; empty where none did."""


class Latency(Object):
    median_ms: float
    """One forward on an idle GPU, by CUDA events."""
    low_ms: float
    """The quickest."""
    high_ms: float
    """The slowest."""
    run_count: Count
    """How many forwards."""
    batch: Count
    """Items in each."""
    throughput_per_s: float
    """Items a second, one forward after the other."""


class Process(Object):
    pid: Count
    """Its number."""
    name: str
    """Its program."""
    used_bytes: Bytes | None
    """What it holds of the card; null where the driver does not say."""


class MeasuredCell(Output):
    environment: dict[str, str]
    """gpu, driver, cuda, torch, cudnn, python, platform, date, as far as they apply."""
    model: Text
    """What ran."""
    runtime: Literal["torch", "onnxruntime"]
    """What ran it."""
    precision: Text
    """At which precision."""
    batch: Count | None
    """With how many items at once."""
    memory_format: Text
    """`contiguous` or `channels_last`."""
    outcome: Literal["finished", "out_of_memory"]
    """How it ended."""


class NodeReading(Object):
    name: Text
    """The node's, as the session calls it."""
    input_bytes: Bytes
    """Inputs of the model that it is the first to read."""
    initializer_bytes: Bytes
    """Weights that it is the first to read."""
    result_bytes: Bytes
    """Buffers for its results; none where it takes one over."""
    scratch_bytes: Bytes
    """What it takes while it runs."""


class Measure(MeasuredCell):
    """What `vramplan measure --json` prints."""

    failure: str
    """What was said when memory ran out; empty when it did not."""
    total_bytes: Bytes
    """The most the process took of the card."""
    limit_bytes: Bytes
    """What its allocator was allowed to reserve."""
    phases: dict[str, MeasuredPhase]
    """PyTorch: `weights`, `load`, `first_run`, `steady`. ONNX Runtime: `session`, `run1`, `run2`, `steady`."""
    context_steps: list[ContextStep]
    """How the context grew."""
    latency: Latency | None
    """How quick it is; null where it was not timed."""
    other_processes: list[Process]
    """Who else held memory of the card before it."""
    notes: list[Text]
    """Doubts about the result."""
    nodes: list[NodeReading]
    """ONNX Runtime: its own statistics of each node, from a session without a memory pattern; empty for PyTorch."""


class BatchTry(Object):
    batch: Count
    """What was tried."""
    estimated_bytes: Bytes
    """What the estimate says."""
    measured_bytes: Bytes
    """What it took, up to where memory ran out."""
    is_finished: bool
    """Whether it ran."""
    retry_count: Count
    """Allocations that first had to give memory back."""


class MaxBatch(Output):
    """What `vramplan measure --find-max-batch --json` prints."""

    largest_batch: Count | None
    """The largest that ran; null when none did."""
    failed_batch: Count | None
    """The smallest that did not; null when all did."""
    estimated_batch: Count | None
    """The largest by the estimate."""
    limit_bytes: Bytes
    """What it may take."""
    tries: list[BatchTry]
    """In their order."""


class VerifiedPart(Object):
    part: Text
    """A part of the budget, `total`, or a peak such as `steady.reserved_peak`."""
    predicted_bytes: Bytes
    """The nominal estimate."""
    predicted_low_bytes: Bytes
    """The least of it."""
    predicted_high_bytes: Bytes
    """The most of it."""
    evidence: Evidence
    """What the estimate rests on."""
    measured_bytes: Bytes | None
    """What it took; null where that was not measured."""
    error_bytes: int | None
    """Predicted less measured: below zero is an under-estimate."""
    error_ratio: float | None
    """The error over what was measured."""


class PeakOp(Object):
    predicted: str
    """What runs at the predicted peak."""
    measured: str | None
    """What ran at the measured one; null where the run was not recorded."""


class Difference(Object):
    name: str
    """The op."""
    role: str
    """That of the largest request without an equal on the other side."""
    predicted_index: Count | None
    """Its position in the prediction; null where only the run has it."""
    measured_index: Count | None
    """Its position in the run; null where only the prediction has it."""
    predicted_bytes: Bytes
    """What it asks for, predicted."""
    measured_bytes: Bytes
    """What it asked for."""


class Alignment(Object):
    phase: Text
    """Which phase is compared."""
    equal_count: Count
    """Ops that ask for the same bytes."""
    different_count: Count
    """Ops that ask for others."""
    only_predicted_count: Count
    """Ops that did not run."""
    only_measured_count: Count
    """Ops that were not predicted."""
    first: Difference | None
    """The first op that differs; null when none does."""
    largest: list[Difference]
    """The largest differences."""


class Verify(MeasuredCell):
    """What `vramplan verify --json` prints."""

    rows: list[VerifiedPart]
    """The parts of the budget, then the total."""
    peaks: list[VerifiedPart]
    """Allocated and reserved peaks of the phases."""
    peak_op: PeakOp
    """What runs at the peak."""
    alignments: list[Alignment]
    """Predicted and recorded requests, op by op."""
    residual_bytes: int | None
    """The error of the total."""
    residual_ratio: float | None
    """The same as a share of what was measured."""
    tolerance_ratio: float
    """How far the total may be off."""
    within_tolerance: bool
    """Whether it is not."""
    notes: list[Text]
    """Doubts about the result."""


class CalibratedGpu(Object):
    key: Text
    """The catalogue's name, else one made of the driver's."""
    name: Text
    """The driver's name."""
    compute_capability: Text | None
    """CUDA's version of the chip."""
    sm_count: Count | None
    """Streaming multiprocessors."""
    nvidia_smi_total_bytes: Bytes | None
    """What nvidia-smi calls total."""
    cuda_visible_total_bytes: Bytes | None
    """What CUDA calls total."""


class CalibratedContext(Object):
    runtime: Literal["torch", "onnxruntime", "tensorrt"]
    """Whose process it is."""
    stage: Literal["context", "first_tensor", "first_convolution", "first_gemm"]
    """The moment: the bare context, then the first tensor, convolution, matrix product."""
    context_bytes: Bytes
    """What the process held beyond its tensors."""


class CalibratedDecode(Object):
    codec: Literal["h264", "hevc", "av1", "vp9", "mjpeg"]
    """How the clip is coded."""
    width: Count
    """In pixels."""
    height: Count
    """In pixels."""
    sessions: Count
    """Decoders at once."""
    fps: float
    """Frames a second of all together."""
    session_bytes: Bytes | None
    """What each session after the first took."""
    decoder_ratio: float | None
    """How busy the driver said the decoders were."""


class CalibratedRate(Object):
    dtype: Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
    """The type."""
    tflops: float
    """10^12 operations a second of a large matrix product."""


class CalibratedPcie(Object):
    to_gpu_pinned_gb_s: float | None
    """From page-locked memory of the host, 10^9 bytes a second."""
    to_gpu_pageable_gb_s: float | None
    """From pageable memory."""
    from_gpu_pinned_gb_s: float | None
    """To page-locked memory."""


class Calibration(Output):
    """The file that `vramplan calibrate` keeps, and `--export` writes."""

    format: Literal["vramplan-calibration"]
    """What kind of file it is."""
    gpu: CalibratedGpu
    """The card."""
    environment: dict[str, str]
    """driver, torch, date, and what else was there."""
    context: list[CalibratedContext]
    """What a process takes beside its tensors."""
    cublas_workspace_bytes: Bytes | None
    """What the first matrix product of a process takes and keeps."""
    decode: list[CalibratedDecode]
    """Rates of the decoders; empty when they were not measured."""
    compute: list[CalibratedRate]
    """Achieved rates by type."""
    memory_bandwidth_gb_s: float | None
    """What a large copy on the device reads and writes."""
    pcie: CalibratedPcie
    """The bus."""
    disturbed: bool
    """Whether other programs used the card: its rates are then too low."""
    notes: list[Text]
    """What was left out, and why."""


class StoredCalibration(Calibration):
    """A calibration, and where it is kept."""

    path: Text
    """The file."""


class Calibrated(Output):
    """What `vramplan calibrate --json` prints."""

    path: Text
    """Where it is kept."""
    calibration: Calibration
    """The file as it is."""
    processes: list[Process]
    """Other programs that held memory of the card."""


class Calibrations(Output):
    """What `vramplan calibrate --json` prints with `--show`, `--export` or `--import`."""

    calibrations: list[StoredCalibration]
    """Those that were asked for."""


class Host(Object):
    vramplan: Text
    """Version."""
    python: Text
    """Version."""
    platform: Text
    """System and kernel."""
    is_wsl: bool
    """Whether it is Windows' Linux."""
    container: Text | None
    """Which kind; null for none."""
    jetson: Text | None
    """Which one; null for none."""


class TorchFacts(Object):
    cuda: str | None
    """The CUDA it was built for; empty for a build without."""
    cudnn: str | None
    """The cuDNN it loads."""
    is_available: bool | None
    """Whether it sees a GPU."""
    gpu_count: Count | None
    """How many."""
    gpu_totals_bytes: dict[str, Bytes]
    """What CUDA calls total, by UUID."""
    failure: str | None
    """Why there is no more."""


class Installed(Object):
    versions: dict[str, str | None]
    """By package; null where it is not installed."""
    torch: TorchFacts | None
    """What PyTorch says; null without it."""
    providers: list[Text] | None
    """Those of ONNX Runtime; null where it is not installed or did not answer."""
    providers_failure: str | None
    """Why it did not."""
    has_cudnn: bool | None
    """Whether all libraries are there that answer for convolution workspace."""


class Setting(Object):
    name: Text
    """A variable of the environment."""
    value: str
    """As it is set."""
    effect: Text
    """What it changes."""


class Driver(Object):
    version: Text
    """As nvidia-smi prints it."""
    cuda: Text
    """The newest CUDA that it can serve."""


class Complaint(Object):
    message: Text
    """What the driver, or the way to it, said."""
    hint: str
    """What to do."""


class Device(Object):
    index: Count
    """As nvidia-smi counts."""
    uuid: Text
    """The same everywhere."""
    name: Text
    """The driver's name."""
    compute_capability: Text | None
    """CUDA's version of the chip."""
    core_count: Count | None
    """CUDA cores."""
    is_ecc: bool | None
    """Whether memory is checked."""
    is_mig: bool | None
    """Whether it is divided."""
    is_display: bool | None
    """Whether a screen hangs on it."""
    driver_model: Text | None
    """On Windows: WDDM, TCC or MCDM."""
    virtualization: Text | None
    """Whether it is passed through or shared."""
    pcie_generation: Count | None
    """Now."""
    pcie_lane_count: Count | None
    """Now."""
    pcie_generation_max: Count | None
    """At most."""
    pcie_lane_count_max: Count | None
    """At most."""
    sm_clock_max_mhz: Count | None
    """At most."""
    video_clock_max_mhz: Count | None
    """At most."""


class Memory(Object):
    total_bytes: Bytes
    """All of it."""
    reserved_bytes: Bytes | None
    """What the driver keeps."""
    used_bytes: Bytes
    """What programs hold."""
    free_bytes: Bytes
    """What is left."""


class Activity(Object):
    sm_ratio: float | None
    """Share of time in which a kernel ran."""
    memory_ratio: float | None
    """Share of time in which memory was read or written."""
    decoder_ratio: float | None
    """The decoders."""
    encoder_ratio: float | None
    """The encoders."""
    pcie_to_gpu_bytes_per_s: Count | None
    """Copies to the card."""
    pcie_from_gpu_bytes_per_s: Count | None
    """Copies from it."""
    sm_clock_mhz: Count | None
    """Now."""
    video_clock_mhz: Count | None
    """Now."""
    power_w: float | None
    """Now."""
    temperature_c: int | None
    """Now."""
    throttle: list[Text]
    """Why clocks are held down; empty when they are not."""


class DoctorCard(Object):
    device: Device
    """As the driver describes it."""
    key: Text | None
    """The catalogue's name; null where it has none."""
    marketed_bytes: Bytes | None
    """The size on the box."""
    cuda_total_bytes: Bytes | None
    """What CUDA calls total."""
    cuda_total_source: Literal["torch", "catalogue"] | None
    """Who says so."""
    is_inline_ecc: bool
    """Whether check bits take a sixteenth of the memory."""
    memory: Memory | None
    """Now; null where the driver did not answer, as below."""
    processes: list[Process] | None
    """Who holds memory of it."""
    activity: Activity | None
    """How busy it is."""
    calibration_count: Count | None
    """Calibrations of this card."""
    unanswered: list[Text]
    """What the driver said instead of an answer."""


class Facts(Object):
    host: Host
    """The machine."""
    installed: Installed
    """The packages of this Python."""
    settings: list[Setting]
    """Variables that change what a GPU program takes."""
    driver: Driver | None
    """NVIDIA's; null without one."""
    complaint: Complaint | None
    """Why there is none."""
    cards: list[DoctorCard]
    """The GPUs."""


class DoctorFinding(Object):
    severity: Literal["problem", "notice"]
    """A problem stops every measurement."""
    what: Text
    """What is so."""
    why: str
    """Why it matters."""
    command: str
    """What to type; empty where nothing helps."""


class Doctor(Output):
    """What `vramplan doctor --json` prints."""

    can_measure: bool
    """Whether a GPU can be measured here."""
    facts: Facts
    """Everything that was asked; null is an answer that nobody gave."""
    findings: list[DoctorFinding]
    """Problems first."""


class TorchCounters(Object):
    allocated_bytes: Bytes
    """What tensors hold."""
    allocated_peak_bytes: Bytes
    """The most since the start."""
    reserved_bytes: Bytes
    """What the allocator holds."""
    requested_bytes: Bytes
    """What tensors asked for."""
    retry_count: Count
    """Allocations that were tried again after the cache was emptied."""
    device_alloc_count: Count
    """Calls of cudaMalloc."""
    oom_count: Count
    """Errors that the program met."""


class WatchSample(Output):
    """A line of `vramplan watch --json`: one look at the GPU."""

    kind: Literal["sample"]
    """What kind of line it is."""
    time_s: float
    """Since the watch began."""
    used_bytes: Bytes
    """Of the card."""
    activity: Activity
    """How busy it is."""
    process_bytes: Bytes | None
    """Of the process; null without one, or where the driver is silent."""
    link_bytes_per_s: Count | None
    """The most that PCIe carries in one direction."""
    torch: TorchCounters | None
    """PyTorch's allocator; null where the program does not report."""
    link_ratio: float | None
    """The busier direction of the link against what it carries."""


class Sign(Object):
    name: Literal["memory", "allocation", "pcie"]
    """Which of the three."""
    level: Literal["present", "absent", "unknown"]
    """Whether it is there."""
    text: Text
    """The number behind it."""
    remedy: str
    """What helps; empty where nothing is needed."""


class WatchSummary(Output):
    """The last line of `vramplan watch --json`."""

    kind: Literal["summary"]
    """What kind of line it is."""
    gpu: Text
    """The driver's name."""
    uuid: Text
    """Of the GPU."""
    pid: Count | None
    """The process; null for the whole card."""
    sample_count: Count
    """Lines before."""
    duration_s: float
    """Of the watch."""
    peak_bytes: Bytes
    """The most that was held."""
    sm_ratio: float | None
    """Mean."""
    link_ratio: float | None
    """Mean."""
    throttle: list[Text]
    """Why clocks were held down."""
    signs: list[Sign]
    """The three signs of waste."""
