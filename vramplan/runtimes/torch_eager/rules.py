"""All rules: an op that is not here either has none of its own memory, or is taken apart into ops that are."""

from __future__ import annotations

from vramplan.runtimes.torch_eager import (
    rules_attention,
    rules_conv,
    rules_data,
    rules_gemm,
    rules_kernels,
    rules_layers,
    rules_reduce,
    rules_select,
)
from vramplan.runtimes.torch_eager.shadow import Op, Rule

RULES: dict[Op, Rule] = {
    **rules_conv.RULES,
    **rules_gemm.RULES,
    **rules_kernels.RULES,
    **rules_layers.RULES,
    **rules_reduce.RULES,
    **rules_select.RULES,
    **rules_data.RULES,
    **rules_attention.RULES,
}


def find_rule(func: Op) -> Rule | None:
    """The rule of *func*, if it has one; ops of libraries that are loaded later are found by name."""
    return RULES.get(func) or rules_data.late_rule(func)
