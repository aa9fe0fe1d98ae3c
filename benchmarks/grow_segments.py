"""Grow the trees that say how Hopper's kernels share their last output tiles, and how right they are.

    python benchmarks/grow_segments.py            score by layers left out, then write workspace/segments_h200.npz
    python benchmarks/grow_segments.py --score    only score

Needs scikit-learn. Grown on the ``guided`` calls of ``data/convolutions_h200/calls.csv.gz`` whose kernel may share tiles. The
printed score leaves each eighth of the layers out in turn; what the shipped trees reach on the other sets is printed by
``benchmarks/convolutions.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import convolutions
import numpy as np
from growing import as_tree
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GroupKFold, cross_val_predict

from vramplan.workspace import segments
from vramplan.workspace.trees import write_trees

_TREES = 15
_MULTIPROCESSORS = 132


def main() -> int:
    """Score, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    rows = [row for row in convolutions.rows() if row.set == "guided" and row.unshared_bytes is not None]
    found = [
        (row, segments.last_round(row.call, row.knobs, _MULTIPROCESSORS))
        for row in rows
        if segments.is_modelled(row.knobs, row.call)
    ]
    found = [(row, left) for row, left in found if left.tiles]
    values = np.array([segments.features(row.call, left) for row, left in found], dtype=np.float32)
    labels = np.array([segments.label_of(max(0, row.device_bytes - (row.unshared_bytes or 0)), left) for row, left in found])
    layers = [hash((row.call.input_shape[1:], row.call.weight_shape, row.call.stride, row.call.padding)) for row, _ in found]
    forest = RandomForestClassifier(_TREES, max_features=0.5, random_state=0)
    said = cross_val_predict(forest, values, labels, groups=layers, cv=GroupKFold(8))
    right, none = np.mean(said == labels), np.mean(labels == 0)
    print(f"{len(found)} calls; of layers left out {right:.1%} right; that none is shared would be in {none:.1%}")
    if not options.score:
        trees = {}
        for index, grower in enumerate(forest.fit(values, labels).estimators_):
            grower.classes_ = forest.classes_
            says = {node: int(forest.classes_[grower.tree_.value[node][0].argmax()]) for node in range(grower.tree_.node_count)}
            trees[str(index)] = as_tree(grower, says)
        write_trees(segments._TREES, trees)
        print(sum(len(tree.label) for tree in trees.values()), "nodes,", segments._TREES.stat().st_size, "bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
