"""The parts of a memory budget. The total is derived from the parts, never stored."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import reduce
from operator import add

from vramplan.ranges import Range

PARTS = ("weights", "inputs", "activations", "outputs", "workspace", "allocator_slack", "context")
"""The parts, in the order a report prints them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is held at the moment of the peak, in bytes; the parts sum to what NVML would show for the process.

    weights          parameters and folded constants, as the runtime stores them
    inputs           tensors the caller provides
    activations      intermediate results alive at the peak
    outputs          tensors the caller receives
    workspace        scratch memory of kernels
    allocator_slack  held by the runtime's allocator beyond what is alive: rounding, reuse that does not fit
    context          the CUDA context, its libraries and loaded kernels

    Invariant: ``total`` is the sum of the parts.
    """

    weights: Range
    inputs: Range
    activations: Range
    outputs: Range
    workspace: Range
    allocator_slack: Range
    context: Range

    @property
    def parts(self) -> dict[str, Range]:
        """Every part by name, in the order of `PARTS`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def total(self) -> Range:
        """The sum: its limits are the sums of the limits, its evidence the weakest of the parts."""
        return reduce(add, self.parts.values())

    @property
    def weights_bytes(self) -> int:
        """Nominal bytes of the weights."""
        return self.weights.nominal_bytes

    @property
    def inputs_bytes(self) -> int:
        """Nominal bytes of the inputs."""
        return self.inputs.nominal_bytes

    @property
    def activations_bytes(self) -> int:
        """Nominal bytes of the activations alive at the peak."""
        return self.activations.nominal_bytes

    @property
    def outputs_bytes(self) -> int:
        """Nominal bytes of the outputs."""
        return self.outputs.nominal_bytes

    @property
    def workspace_bytes(self) -> int:
        """Nominal bytes of kernel scratch."""
        return self.workspace.nominal_bytes

    @property
    def allocator_slack_bytes(self) -> int:
        """Nominal bytes the allocator holds beyond what is alive."""
        return self.allocator_slack.nominal_bytes

    @property
    def context_bytes(self) -> int:
        """Nominal bytes of the CUDA context and its libraries."""
        return self.context.nominal_bytes

    @property
    def total_bytes(self) -> int:
        """Nominal bytes of the whole process."""
        return self.total.nominal_bytes
