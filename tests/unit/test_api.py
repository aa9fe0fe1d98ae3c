import pytest

import vramplan as vp
from vramplan.sources import zoo


def test_the_public_names_are_sorted_and_exist():
    assert vp.__all__ == sorted(vp.__all__)
    assert all(hasattr(vp, name) for name in vp.__all__)


def test_an_estimate_adds_up():
    estimate = vp.estimate("yolov8s", batch=8, precision="fp16", gpu="3090")
    assert estimate.budget.inputs_bytes == 8 * 3 * 640 * 640 * 2 == 19_660_800
    assert estimate.total_bytes == sum(part.nominal_bytes for part in estimate.budget.parts.values())
    assert estimate.total_low_bytes < estimate.total_bytes < estimate.total_high_bytes


def test_weights_are_the_published_parameters_and_little_more():
    weights = vp.estimate("yolov8s", precision="fp16").budget.weights_bytes
    assert 11_156_544 * 2 <= weights < 11_156_544 * 2 * 1.01  # the rest: anchors and strides, constants of the head


def test_a_sweep_has_one_row_a_cell():
    frame = vp.sweep("mobilenet_v2", batches=(1, 4, 8), precisions=("fp32", "fp16")).to_frame()
    assert len(frame) == 6
    assert (frame["total_bytes"] > 0).all()


def test_the_engine_of_a_profile_pays_for_its_largest_shape():
    small = vp.estimate("yolov8s", precision="fp16", shapes={"images": (1, 3, 320, 320)})
    built = vp.estimate(
        "yolov8s", precision="fp16", shapes={"images": (1, 3, 320, 320)}, max_shapes={"images": (8, 3, 640, 640)}
    )
    large = vp.estimate("yolov8s", precision="fp16", batch=8)
    assert built.phases["context"] == large.phases["context"]
    assert built.budget.inputs == small.budget.inputs
    assert 0.9 < built.profile.idle_ratio < 1


@pytest.mark.parametrize(
    ("name", "count"), [("yolov8s", 11_156_544), ("vit_b_16", 86_567_656), ("yolov5s", 7_225_885 + 3 * 3 * 2)]
)
def test_parameters_are_the_published_count_with_folded_batch_norms(name, count):  # and YOLOv5's anchors
    assert vp.estimate(name).model.parameters == count


def test_bytes_of_a_model_are_a_model():
    content = zoo()["resnet50"].path.read_bytes()
    # of each of the 26,560 normalised channels, scale and shift become one bias
    assert vp.estimate(content, dims={"height": 224, "width": 224}).model.parameters == 25_557_032 - 26_560


def test_every_zoo_model_is_fully_modelled():
    for name in zoo():
        coverage = vp.estimate(name).coverage
        assert coverage.exact == coverage.ops, name
