"""Grow the trees that say what cuBLASLt takes for 1x1 convolutions on Hopper, and how right they are.

    python benchmarks/grow_products.py            score trees that saw no network, then write workspace/products_h200.npz
    python benchmarks/grow_products.py --score    only score

Needs scikit-learn. Grown on ``data/convolutions_h200/products.csv.xz``: random products and those of ``guided`` calls; every
product of a layer that is ``judged`` or ``apart`` is left out. The printed score is of trees that did not see the guided
ones either, on the guided calls; what the shipped trees reach on the other sets is printed by ``benchmarks/convolutions.py``.
"""

from __future__ import annotations

import argparse
import csv
import lzma
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import convolutions
import numpy as np
from growing import as_tree
from sklearn.tree import DecisionTreeClassifier

from vramplan.units import MIB
from vramplan.workspace import products
from vramplan.workspace.convolution import product_of
from vramplan.workspace.pointwise import Product
from vramplan.workspace.trees import Tree, write_trees

PRODUCTS = convolutions.FOLDER / "products.csv.xz"
LIMITS = (4 * MIB, 128 * MIB)
_LEAST_IN_LEAF = 6
_BITS = {"fp32": 32, "fp16": 16, "bf16": 16}


def measured() -> list[tuple[Product, dict[int, int]]]:
    """Every product that was asked, with its workspace by limit."""
    with lzma.open(PRODUCTS, "rt", encoding="utf-8", newline="") as file:
        return [
            (_product(line), {LIMITS[0]: int(line["bytes_4"]), LIMITS[1]: int(line["bytes_128"])})
            for line in csv.DictReader(file)
        ]


def _product(line: Mapping[str, str]) -> Product:
    pixels = int(line["pixels"])
    return Product(
        images=int(line["images"]),
        pixels=pixels,
        channels=int(line["channels"]),
        outputs=int(line["outputs"]),
        bits=_BITS[line["dtype"]],
        channels_last=line["channels_last"] == "1" or pixels == 1,
        is_bfloat16=line["dtype"] == "bf16",
    )


def layer(product: Product) -> tuple[int, int, int]:
    """What makes two products the same layer, in whatever type, layout and batch."""
    return product.pixels, product.channels, product.outputs


def grown(samples: Sequence[tuple[Product, dict[int, int]]]) -> dict[str, Tree]:
    """One tree for each width, layout and limit."""
    by_name: dict[str, list[tuple[Product, int]]] = {}
    for product, sizes in samples:
        for limit, size in sizes.items():
            by_name.setdefault(products.tree_name(product, limit), []).append((product, size))
    return {name: _tree(own) for name, own in sorted(by_name.items())}


def _tree(samples: Sequence[tuple[Product, int]]) -> Tree:
    values = np.array([products.features(product) for product, _ in samples], dtype=np.float32)
    labels = np.array([products.label_of(size, product.output_bytes) for product, size in samples])
    grower = DecisionTreeClassifier(min_samples_leaf=_LEAST_IN_LEAF, random_state=0).fit(values, labels)
    order = np.argsort([size for _, size in samples], kind="stable")
    leaves = grower.apply(values[order])
    most = dict(zip(leaves.tolist(), labels[order].tolist(), strict=True))
    return as_tree(grower, most)


def score(trees: Mapping[str, Tree], calls: Sequence[convolutions.Row], sizes: Mapping[Product, Mapping[int, int]]) -> None:
    """Print how right *trees* are on the products of *calls*, at both limits."""
    for name, tree in trees.items():
        hits, inside, count = 0, 0, 0
        for row in calls:
            product = _as_asked(product_of(row.call))
            for limit, size in sizes.get(product, {}).items():
                if products.tree_name(product, limit) != name:
                    continue
                said = [products.label_bytes(label, product.output_bytes) for label in tree.labels(products.features(product))]
                truth = size + 256 if size else 0
                hits += abs(said[0] - truth) <= 512
                inside += truth <= max(said) + 512
                count += 1
        shown = f"{hits / max(1, count):8.2%} right{inside / max(1, count):8.2%} not above the most"
        print(f"{name:14}{len(tree.label):7} nodes{count:7} products{shown}")


def _as_asked(product: Product) -> Product:
    return replace(product, channels_last=True) if product.pixels == 1 else product


def main() -> int:
    """Score, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--score", action="store_true")
    options = parser.parse_args()
    rows = [row for row in convolutions.rows() if row.call.is_pointwise and row.tf32]
    hidden = {layer(product_of(row.call)) for row in rows if row.set != "guided"}
    guided = [row for row in rows if row.set == "guided"]
    known = {layer(product_of(row.call)) for row in guided}
    samples = [sample for sample in measured() if layer(sample[0]) not in hidden]
    unseen = [sample for sample in samples if layer(sample[0]) not in known]
    print(len(samples), "products,", len(unseen), "of them of no network")
    score(grown(unseen), guided, dict(samples))
    if not options.score:
        trees = grown(samples)
        write_trees(products._TREES, trees)
        print(sum(len(tree.label) for tree in trees.values()), "nodes,", products._TREES.stat().st_size, "bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
