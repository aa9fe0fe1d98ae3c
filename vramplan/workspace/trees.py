"""Decision trees as arrays in one file: what was learned from measurements, and grown by a script under ``benchmarks``.

Nodes lie in the order of a walk that goes left first: the left child of node *i* is ``i + 1``, the right one ``right[i]``. A
node without a right child (0) is a leaf, and ``most`` is the largest label that it was grown on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PARTS = ("feature", "threshold", "right", "label", "most")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Arrays with one entry a node. Invariant: equally long, and children come after their parents."""

    feature: Any
    threshold: Any
    right: Any
    label: Any
    most: Any

    def labels(self, features: Sequence[float]) -> tuple[int, int]:
        """The likely label of what has these *features*, and the largest."""
        node = 0
        while self.right[node]:
            is_left = features[self.feature[node]] <= self.threshold[node]
            node = node + 1 if is_left else int(self.right[node])
        return int(self.label[node]), int(self.most[node])


def vote(trees: Sequence[Tree], features: Sequence[float]) -> tuple[int, int, int]:
    """The label that most *trees* say (the smaller on a tie), the smallest that any says, and the largest."""
    said = [tree.labels(features)[0] for tree in trees]
    return min(set(said), key=lambda label: (-said.count(label), label)), min(said), max(said)


def read_trees(path: Path) -> Mapping[str, Tree]:
    """The trees of a file, by name."""
    import numpy as np  # noqa: PLC0415 - what needs no tree does without

    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.rpartition(".")[0] for key in arrays.files)
        return {name: Tree(**{part: arrays[f"{name}.{part}"] for part in _PARTS}) for name in names}


def write_trees(path: Path, trees: Mapping[str, Tree]) -> None:
    """The file that `read_trees` reads."""
    import numpy as np  # noqa: PLC0415

    arrays = {f"{name}.{part}": getattr(tree, part) for name, tree in trees.items() for part in _PARTS}
    np.savez_compressed(path, **arrays)
