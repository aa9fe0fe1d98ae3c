"""What a user may name as a PyTorch model, and what each of those comes to."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vramplan.errors import MachineError, ModelError, UsageError  # noqa: E402
from vramplan.sources import torch_spec  # noqa: E402
from vramplan.sources.torch_inputs import bind_inputs  # noqa: E402
from vramplan.sources.torch_module import module_sha256, open_torch  # noqa: E402
from vramplan.sources.torch_spec import factory_spec, is_torch_model, require_torch  # noqa: E402
from vramplan.sources.zoo import zoo  # noqa: E402

CODE = """
import torch
from torch import nn

print("hello from the factory")

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(width, 2)
    def forward(self, x):
        return self.linear(x)

class Wide(Net):
    def __init__(self, width):
        super().__init__(width)

def plain(): return Net()
def with_args(): return Net(), (torch.empty(8, 4),)
def with_tensor(): return Net(), torch.empty(8, 4)
def with_kwargs(): return Net(), (), {"x": torch.empty(8, 4)}
def with_mapping(): return Net(), {"x": torch.empty(8, 4)}
def with_text(): return Net(), "x"
def nothing(): pass
def raises(): raise RuntimeError("no such width")
def leaves(): raise SystemExit(2)
def hub(): raise ConnectionError("cannot reach the hub")
ready = Net()
number = 3
class Inner:
    build = staticmethod(plain)
"""


@pytest.fixture
def net_py(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(CODE)
    return path


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize(
    "model",
    [
        "net.py:build",
        "pkg.mod:build",
        "a/b.py:Net.make",
        "C:\\m\\net.py:build",
        "m.pt",
        "m.PTH",
        "m.pt2",
        "m.ts",
        "m.safetensors",
    ],
)
def test_texts_that_mean_pytorch(model):
    assert is_torch_model(model)


@pytest.mark.parametrize("model", ["yolov8s", "m.onnx", "C:\\m\\net.onnx", "m.engine", "m.bin", b"abc", "a:", ":b", 3, None])
def test_what_does_not_mean_pytorch(model):
    assert not is_torch_model(model)


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert factory_spec("net:build") is not None
    Path("net:build").write_text("")
    assert factory_spec("net:build") is None


def test_a_bin_file_is_told_by_its_content(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(small().state_dict(), path)
    assert is_torch_model(path)
    path.write_bytes(b"RIFF")
    assert not is_torch_model(path)


def test_modules_are_recognised_without_importing_torch():
    assert is_torch_model(small())
    code = "import sys; from vramplan.sources.torch_spec import is_torch_model as f; f('a.py:b'); f('m.pt'); f(3); f('x.bin')"
    done = subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=False)
    assert done.returncode == 0


def test_missing_torch_is_a_machine_error(monkeypatch):
    require_torch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MachineError, match=r"pip install 'vramplan\[torch\]'"):
        require_torch()


@pytest.mark.parametrize(("version", "old"), [("2.8.1", True), ("1.13.1+cu117", True), ("2.9.0", False), ("2.14.1+cpu", False)])
def test_old_torch_is_a_machine_error(monkeypatch, version, old):
    monkeypatch.setattr(torch_spec, "_installed_version", lambda: version)
    if old:
        with pytest.raises(MachineError, match="too old"):
            require_torch()
    else:
        require_torch()


@pytest.mark.parametrize("name", ["plain", "ready", "Net", "Inner.build"])
def test_factories_give_a_module_in_eval_mode(net_py, name, capsys):
    model = open_torch(f"{net_py}:{name}")
    assert (model.name, model.format, model.args) == (name.rpartition(".")[2], "module", ())
    assert not model.module.training
    assert model.notes == ("runs the code of net.py",)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["with_args", "with_tensor", "with_kwargs", "with_mapping"])
def test_factories_may_bring_inputs(net_py, name):
    bound = bind_inputs(open_torch(f"{net_py}:{name}"))
    assert bound.shapes == {"x": (8, 4)}


def test_a_module_on_the_path_is_imported_from_the_working_folder(net_py, monkeypatch):
    monkeypatch.chdir(net_py.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = sys.path[0]
    assert type(open_torch("net:plain").module).__name__ == "Net"
    assert sys.path[0] == before  # what the user's folder holds never hides a library later
    assert sys.path[-1] == str(net_py.parent)
    del sys.modules["net"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "RuntimeError: no such width"),
        ("leaves", "SystemExit: 2"),
        ("nothing", "returned None, not an nn.Module"),
        ("with_text", "inputs of type str"),
        ("Wide", "missing 1 required positional argument: 'width'\nIt is called without arguments"),
        ("number", "is a value of type int, not a function"),
        ("plainn", "Did you mean: plain?"),
        ("hub", "without pretrained weights"),
    ],
)
def test_factories_that_fail(net_py, name, message):
    with pytest.raises(ModelError) as caught:
        open_torch(f"{net_py}:{name}")
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_the_error_shows_the_users_own_line(net_py):
    line = CODE.splitlines().index('def raises(): raise RuntimeError("no such width")') + 1
    with pytest.raises(ModelError, match=rf"net\.py:{line} `def raises"):
        open_torch(f"{net_py}:raises")


def test_files_that_do_not_import(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ndef build(:\n")
    with pytest.raises(ModelError, match=r"SyntaxError: .*broken\.py:2"):
        open_torch(f"{tmp_path}/broken.py:build")
    (tmp_path / "lacks.py").write_text("import no_such_library\n")
    with pytest.raises(ModelError, match="Install it here, or run where it can be imported: no_such_library"):
        open_torch(f"{tmp_path}/lacks.py:build")
    with pytest.raises(ModelError, match="no file is called"):
        open_torch(f"{tmp_path}/absent.py:build")
    with pytest.raises(ModelError, match=r"no module is called 'no_such_package\.nets'"):
        open_torch("no_such_package.nets:build")


def test_a_file_without_a_factory_is_read_for_names_and_not_run(net_py):
    with pytest.raises(UsageError, match=r"Type: .*net\.py:Net or .*net\.py:Wide or .*net\.py:plain"):
        open_torch(net_py)


def test_interrupts_pass_through(tmp_path):
    (tmp_path / "slow.py").write_text("def build():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        open_torch(f"{tmp_path}/slow.py:build")


def test_modules_are_taken_as_they_are():
    module = small().train()
    model = open_torch(module)
    assert model.module is module
    assert module.training  # the trace sets its own mode, and puts this one back
    assert model.name == "Sequential"


def test_the_hash_of_a_module_is_about_shapes_not_values():
    assert module_sha256(small()) == module_sha256(small().to("meta"))
    assert module_sha256(small()) != module_sha256(small().half())


@pytest.mark.parametrize("model", [object(), 3, [small()]])
def test_other_objects_are_refused(model):
    with pytest.raises(ModelError, match=r"not an nn\.Module"):
        open_torch(model)


@pytest.mark.parametrize("name", ["yolov8n", "yolov5s", "yolo11n", "vit_b_16", "ResNet-50"])
def test_zoo_models_run_on_meta(name):
    model = open_torch(name)
    entry = zoo()[model.name]
    assert sum(parameter.numel() for parameter in model.module.parameters()) == entry.parameters
    assert all(parameter.is_meta for parameter in model.module.parameters())
    with torch.inference_mode():
        assert model.module(*bind_inputs(model).args) is not None


def test_an_exported_program_keeps_its_inputs(tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(small().eval(), (torch.zeros(2, 3, 8, 8),)), path)
    model = open_torch(path)
    assert (model.name, model.format) == ("net", "pt2")
    assert bind_inputs(model).shapes == {"input": (2, 3, 8, 8)}
    assert len(model.sha256()) == 64
    with torch.inference_mode():
        assert model.module(*model.args).shape == (2, 4, 6, 6)


def test_a_fixed_size_of_an_exported_program_cannot_change(tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(small().eval(), (torch.zeros(2, 3, 8, 8),)), path)
    with pytest.raises(UsageError, match="'input' was exported as 2x3x8x8; dimension 0 cannot be 4"):
        bind_inputs(open_torch(path), batch=4)


class Sizes(nn.Module):
    def forward(self, x, *, more):
        y = torch.cat([x, more["a b"]], 0)
        return {"out put": y.reshape(y.shape[0] * 4) if y.shape[0] > 1 else y, "n": x.shape[0] // 2}


def test_dynamic_sizes_of_an_exported_program(tmp_path):
    auto = torch.export.Dim.AUTO
    args, kwargs = (torch.zeros(4, 4),), {"more": {"a b": torch.zeros(5, 4)}}
    dynamic = {"x": {0: auto}, "more": {"a b": {0: auto}}}
    torch.export.save(torch.export.export(Sizes(), args, kwargs, dynamic_shapes=dynamic), tmp_path / "sizes.pt2")
    bound = bind_inputs(open_torch(tmp_path / "sizes.pt2"), batch=9)
    assert bound.shapes == {"x": (9, 4), "more.a b": (5, 4)}
    assert all(tensor.is_meta for name, tensor in bound.named if name == "x")


def test_a_program_without_example_inputs_remembers_their_shapes(tmp_path):
    program = torch.export.export(small().eval(), (torch.zeros(2, 3, 8, 8),))
    program.example_inputs = None
    torch.export.save(program, tmp_path / "net.pt2")
    assert bind_inputs(open_torch(tmp_path / "net.pt2")).shapes == {"input": (2, 3, 8, 8)}


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_told_by_its_content(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(small()), path)
    model = open_torch(path)
    assert model.format == "torchscript"
    assert not model.module.training
    bound = bind_inputs(model, shapes={"input": (1, 3, 8, 8)})
    assert model.module(torch.zeros(bound.shapes["input"])).shape == (1, 4, 6, 6)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_weights_and_shared_storage_counts_once(tmp_path, zipped):
    tied = torch.zeros(10, 4)
    torch.save({"a": tied, "b": tied, "c": tied[:2], "d": torch.zeros(3, dtype=torch.int64)}, tmp_path / "w.pt",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    model = open_torch(tmp_path / "w.pt")
    assert model.module is None
    assert model.notes == ("weights only: no activations are counted",)
    assert [(w.name, w.shape, w.dtype, w.size_bytes) for w in model.weights] == [
        ("a", (10, 4), "float32", 160), ("b", (10, 4), "float32", 0), ("c", (2, 4), "float32", 0), ("d", (3,), "int64", 24),
    ]  # fmt: skip


def test_only_the_weights_of_a_checkpoint_count(tmp_path):
    state = small().state_dict()
    torch.save({"state_dict": state, "optimizer": {"m": torch.zeros(1000)}, "epoch": 3}, tmp_path / "w.pth")
    model = open_torch(tmp_path / "w.pth")
    assert [weight.name for weight in model.weights] == list(state)
    assert "'state_dict'" in model.notes[1]


def test_a_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds no tensors"):
        open_torch(tmp_path / "w.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_needs_permission(tmp_path, zipped):
    path = tmp_path / "net.pt"
    torch.save(small(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"pickled model \(it names torch.nn.modules.container.Sequential\)") as caught:
        open_torch(path)
    assert all(word in caught.value.hint for word in ("state_dict", "torch.export", "onnx", "--allow-pickle"))
    model = open_torch(path, allow_pickle=True)
    assert model.format == "pickle"
    assert "runs the code" in model.notes[0]
    assert not model.module.training


def test_weights_stay_weights_with_permission(tmp_path):
    torch.save(small().state_dict(), tmp_path / "w.pt")
    assert open_torch(tmp_path / "w.pt", allow_pickle=True).format == "weights"


def test_ultralytics_checkpoints_need_ultralytics(tmp_path, monkeypatch):
    fake = types.ModuleType("ultralytics")
    fake.Detector = type("Detector", (nn.Linear,), {"__module__": "ultralytics"})
    monkeypatch.setitem(sys.modules, "ultralytics", fake)
    path = tmp_path / "yolo.pt"
    torch.save({"epoch": -1, "ema": None, "model": fake.Detector(3, 4).half()}, path)
    model = open_torch(path, allow_pickle=True)
    assert model.module.weight.dtype is torch.float32
    with pytest.raises(ModelError, match=r"yolo export model=.*yolo\.pt format=onnx"):
        open_torch(path)
    monkeypatch.delitem(sys.modules, "ultralytics")
    with pytest.raises(MachineError, match="pip install ultralytics"):
        open_torch(path, allow_pickle=True)


def test_onnx_files_are_not_for_pytorch(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="PyTorch cannot run it"):
        open_torch(tmp_path / "m.onnx")
