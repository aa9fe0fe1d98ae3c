"""Which GPU of a machine is meant, and which card of the catalogue it is."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

import vramplan as vp
from tests.device_fakes import H200, H200_IDLE, RTX_3090, FakeProbe
from vramplan.device import nvml
from vramplan.device.probe import Device, Memory
from vramplan.device.this_gpu import find_card, this_gpu
from vramplan.errors import MachineError, UsageError
from vramplan.gpus import find_gpu, usable_bytes
from vramplan.units import GIB, MIB


def memory(total_mib: int) -> Memory:
    return Memory(total_bytes=total_mib * MIB, reserved_bytes=None, used_bytes=0, free_bytes=total_mib * MIB)


MEMORY = {H200.uuid: H200_IDLE, RTX_3090.uuid: memory(24576)}
BOTH = FakeProbe(devices=(H200, RTX_3090), memory=MEMORY)


def test_a_card_of_the_catalogue_by_name_and_memory():
    assert this_gpu(FakeProbe(), environment={}) == find_gpu("h200")


@pytest.mark.parametrize(
    ("visible", "key"),
    [("0", "h200-sxm"), ("1", "rtx3090"), ("1,0", "rtx3090"), (RTX_3090.uuid, "rtx3090"), (RTX_3090.uuid[:12], "rtx3090")],
)
def test_cuda_visible_devices_by_number_and_uuid(visible: str, key: str):
    assert this_gpu(BOTH, environment={"CUDA_VISIBLE_DEVICES": visible}).key == key


@pytest.mark.parametrize("visible", ["", "-1", "7", "GPU-ffff", "NoDevFiles\x1b"])
def test_a_setting_that_hides_every_gpu_is_told(visible: str):
    with pytest.raises(MachineError, match="leaves no GPU visible") as caught:
        this_gpu(BOTH, environment={"CUDA_VISIBLE_DEVICES": visible})
    assert caught.value.message.isprintable()


def test_of_several_different_gpus_the_first_with_a_note(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="vramplan"):
        assert this_gpu(BOTH, environment={}).key == "h200-sxm"
        assert this_gpu(FakeProbe(devices=(H200, H200)), environment={}).key == "h200-sxm"
    assert len(caplog.records) == 1
    assert "of several different GPUs" in caplog.records[0].getMessage()


def test_a_known_name_with_other_memory_is_not_the_catalogues_card():
    modified = FakeProbe(devices=(RTX_3090,), memory=memory(49152))
    gpu = this_gpu(modified, environment={})
    assert gpu.key == "nvidia-geforce-rtx-3090"
    assert gpu.nvidia_smi_total_bytes == 48 * GIB
    assert gpu.nvdec_count is None
    assert usable_bytes(gpu).nominal_bytes > 46 * GIB


def test_one_name_of_two_sizes_is_told_apart_by_memory():
    shared = replace(RTX_3090, name="NVIDIA GeForce RTX 3060")
    sizes = {12288: "rtx3060", 8192: "rtx3060-8gb"}
    found = {size: this_gpu(FakeProbe(devices=(shared,), memory=memory(size)), environment={}) for size in sizes}
    for size, gpu in found.items():
        assert gpu.vram_marketed_bytes == size * MIB


def test_a_card_that_nobody_knows_has_the_drivers_facts():
    device = Device(index=0, uuid="GPU-1", name="NVIDIA Nova \x1b[31m 9000", compute_capability="13.0", pcie_lane_count_max=8)
    gpu = this_gpu(FakeProbe(devices=(device,), memory=memory(20000)), environment={})
    assert gpu.name.isprintable()
    assert gpu.key.replace("-", "").isalnum()
    assert gpu.vram_marketed_bytes == 20000 * MIB
    assert gpu.pcie_lane_count == 8
    assert vp.estimate("mobilenet_v2", gpu=gpu).total_bytes > 0
    assert vp.streams("mobilenet_v2", gpu=gpu).streams > 0


def test_a_card_split_into_instances_is_refused_with_what_to_type():
    split = FakeProbe(devices=(replace(H200, is_mig=True),))
    with pytest.raises(MachineError, match="MIG") as caught:
        this_gpu(split, environment={})
    assert "--vram" in caught.value.hint


def test_no_gpu_at_all():
    with pytest.raises(MachineError, match="sees no GPU"):
        this_gpu(FakeProbe(devices=()), environment={})


def test_auto_in_every_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "open_probe", FakeProbe)
    h200 = find_gpu("h200")
    assert find_card("Auto") == h200
    assert vp.estimate("mobilenet_v2", gpu="auto").gpu == h200
    assert vp.sweep("mobilenet_v2", gpu="auto").cells[0].gpu == h200
    assert vp.streams("mobilenet_v2", gpu="auto").card.gpu == h200
    assert [card.gpu.key for card in vp.streams("mobilenet_v2", gpu=["auto", "t4"]).cards] == ["h200-sxm", "t4"]


def test_auto_without_a_driver_is_a_machine_error(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise MachineError("NVML: not found")

    monkeypatch.setattr(nvml, "open_probe", refuse)
    with pytest.raises(MachineError):
        vp.estimate("mobilenet_v2", gpu="auto")
    with pytest.raises(UsageError):
        find_card("automatic")
