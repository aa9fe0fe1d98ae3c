"""Layers and tensors of two estimates that are the same, under one name."""

from dataclasses import replace

import pytest

import vramplan as vp
from tests.cli.cells import MIB, cell, layer
from vramplan.pairing import MODEL, module_of, pair_layers, pair_tensors
from vramplan.result import LiveBuffer


@pytest.mark.parametrize(
    ("name", "role", "module"),
    [
        ("/stages.1/stages.1.0/shortcut/shortcut.0/Conv", "", "stages.1.0.shortcut.0"),
        ("stages.1.0.shortcut.0 conv2d", "", "stages.1.0.shortcut.0"),
        ("/backbone/stem/conv/Conv_output_0", "activation", "backbone.stem.conv"),
        ("stem.conv cuDNN workspace", "workspace", "stem.conv"),
        ("scratch of /backbone/downs.0/conv/Conv", "workspace", "backbone.downs.0.conv"),
        ("head.0.weight", "weight", "head.0"),
        ("/Flatten", "", MODEL),
        ("/stem/act/Mul/QuickGeluFusion/", "", "stem.act"),
        ("images", "input", "images"),
        ("Conv_12", "", "Conv_12"),
        ("scale", "weight", "scale"),
    ],
)
def test_the_module_of_a_name(name, role, module):
    assert module_of(name, role) == module


def test_another_fusion_of_the_same_ops_is_the_same_layer():
    fused = cell(layers=(layer("/a/Conv + /a/Relu", 4 * MIB), layer("/b/Conv", MIB)))
    apart = cell(layers=(layer("/a/Conv", 8 * MIB), layer("/a/Relu", 8 * MIB), layer("/b/Conv", MIB)))
    first, second = pair_layers(fused, apart)
    assert first == [("/a/Conv", "convolution", 5 * MIB), ("/b/Conv", "convolution", 2 * MIB)]
    assert second == [
        ("/a/Conv", "convolution", 9 * MIB),
        ("/a/Conv", "convolution", 9 * MIB),
        ("/b/Conv", "convolution", 2 * MIB),
    ]


def test_a_layer_that_is_fused_alike_keeps_its_whole_name():
    both = cell(layers=(layer("/a/Conv + /a/Relu", MIB),))
    assert pair_layers(both, both)[0] == [("/a/Conv + /a/Relu", "convolution", 2 * MIB)]


def test_of_two_runtimes_rows_are_modules_with_the_weights_that_are_alive():
    weight = LiveBuffer(name="a.weight", role="weight", size_bytes=MIB, until="")
    graph = cell(layers=(layer("/a/Conv + /a/act/Relu", 4 * MIB),), live=(weight,))
    trace = replace(
        cell(layers=(layer("a conv2d", 4 * MIB), layer("a.act relu", 4 * MIB)), live=(weight,)),
        runtime="torch",
    )
    first, second = pair_layers(graph, trace)
    assert first == [("a", "module", 4 * MIB), ("a", "module", MIB)]
    assert second == [("a", "module", 4 * MIB), ("a", "module", 4 * MIB), ("a", "module", MIB)]
    assert pair_tensors(graph, trace) == ([("a", "weight", MIB)], [("a", "weight", MIB)])


PAIRS = {
    "models": ({"model": "yolov8n"}, {"model": "yolov8s"}),
    "runtimes": ({"model": "resnet50"}, {"model": "resnet50", "runtime": "onnxruntime"}),
    "precisions": ({"model": "yolov8n"}, {"model": "yolov8n", "precision": "int8"}),
    "batches": ({"model": "resnet50"}, {"model": "resnet50", "batch": 4}),
}
"""The kinds of pairs that `vramplan diff` takes."""


@pytest.mark.parametrize("what", PAIRS)
def test_changes_of_rows_add_up_to_what_the_two_sides_differ_in(what):
    before, after = (vp.estimate(asked["model"], **{k: v for k, v in asked.items() if k != "model"}) for asked in PAIRS[what])
    found = vp.diff(before, after)
    parts = {name: part.nominal_bytes for name, part in before.budget.parts.items()}
    now = {name: part.nominal_bytes for name, part in after.budget.parts.items()}
    assert {change.name: change.change_bytes for change in found.parts} == {
        name: now[name] - parts[name] for name in parts if now[name] != parts[name]
    }
    first, second = ([row.size_bytes for row in cell.peak.live] for cell in (before, after))
    assert sum(change.change_bytes for change in found.tensors) == sum(second) - sum(first)
    rows = [sum(size for _, _, size in side) for side in pair_layers(before, after)]
    assert sum(change.change_bytes for change in found.layers) == rows[1] - rows[0]


@pytest.mark.parametrize("runtimes", [("tensorrt", "onnxruntime")])
def test_modules_of_two_runtimes_find_each_other(runtimes):
    first, second = (vp.estimate("resnet50", precision="fp16", runtime=runtime) for runtime in runtimes)
    one, other = ({name for name, _, _ in side} for side in pair_layers(first, second))
    assert len(one & other) > 0.8 * len(one | other)


def test_a_graph_and_a_trace_find_each_other():
    pytest.importorskip("torch")
    first, second = (vp.estimate("resnet50", precision="fp16", runtime=runtime) for runtime in ("tensorrt", "torch"))
    one, other = ({name for name, _, _ in side} for side in pair_layers(first, second))
    assert one - other <= {"classifier", "pool", MODEL, "stem.0"} | {name for name in one if "onnx::" in name}
