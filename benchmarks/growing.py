"""Trees of scikit-learn as the arrays that vramplan reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from vramplan.workspace.trees import Tree


def as_tree(grower: Any, most: Mapping[int, int]) -> Tree:
    """scikit-learn's nodes in the order of a walk, less splits between two leaves that say the same.

    *most* is the largest label of each leaf; of a tree in a forest, ``classes_`` are its forest's.
    """
    inner = grower.tree_
    rows: list[tuple[int, float, int, int, int]] = []

    def walk(node: int) -> tuple[int, int] | None:
        """Append *node* and all below; what it says if that is one thing."""
        place = len(rows)
        if inner.children_left[node] < 0:
            says = int(grower.classes_[inner.value[node][0].argmax()]), most[node]
            rows.append((0, 0.0, 0, *says))
            return says
        rows.append((int(inner.feature[node]), float(inner.threshold[node]), 0, 0, 0))
        left = walk(inner.children_left[node])
        right_at = len(rows)
        right = walk(inner.children_right[node])
        if left is not None and left == right:
            del rows[place:]
            rows.append((0, 0.0, 0, *left))
            return left
        rows[place] = (*rows[place][:2], right_at, 0, 0)
        return None

    sys.setrecursionlimit(10_000)
    walk(0)
    types = {"feature": "u1", "threshold": "f4", "right": "u4", "label": "i2", "most": "i2"}
    columns = zip(*rows, strict=True)
    return Tree(**{name: np.array(column, dtype=kind) for (name, kind), column in zip(types.items(), columns, strict=True)})
