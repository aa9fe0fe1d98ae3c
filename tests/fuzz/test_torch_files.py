"""PyTorch files from a stranger: each is read, or is one clear error; none of them runs anything or exhausts the machine."""

import contextlib
import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from vramplan.errors import ModelError, VramplanError  # noqa: E402
from vramplan.sources.torch_export_check import _is_expression  # noqa: E402
from vramplan.sources.torch_inputs import bind_inputs  # noqa: E402
from vramplan.sources.torch_module import open_torch  # noqa: E402

budget = settings(max_examples=60, deadline=5000, suppress_health_check=list(HealthCheck))
places = st.floats(min_value=0, max_value=1, exclude_max=True)


class Marker:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def outcome(content: bytes, folder: Path, name: str = "model.pt") -> object:
    """What opening *content* comes to; fails unless that is a model or an error of one printable sentence."""
    try:
        return open_torch(_written(folder / name, content))
    except VramplanError as error:
        found = error
    assert found.exit_code == 3
    assert found.message.isprintable()
    assert len(found.message) < 1000
    return found


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refused(content: bytes, folder: Path, name: str = "model.pt") -> str:
    found = outcome(content, folder, name)
    assert isinstance(found, ModelError), found
    return found.message


def saved(thing: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file, **options)
    return file.getvalue()


@cache
def program() -> bytes:
    file = io.BytesIO()
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    sizes = {"input": {0: torch.export.Dim("n", min=2, max=64)}}
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=sizes), file)
    return file.getvalue()


@cache
def script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 4, 3)), file)
    return file.getvalue()


@cache
def weights() -> bytes:
    return saved(nn.Conv2d(3, 4, 3).state_dict())


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(start: int, end: int, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def with_members(archive: bytes, change: Any) -> bytes:
    """*archive* with every member passed through *change*; stored and aligned as little as a zip needs."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(file, "w") as made:
        for member in source.infolist():
            made.writestr(member.filename, change(member.filename, source.read(member.filename)))
    return file.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.pt2", "m.safetensors"])
def test_pickles_run_only_with_permission(tmp_path, zipped, name):
    marker = tmp_path / "marker"
    content = saved({"weight": torch.zeros(3), "x": Marker(marker)}, _use_new_zipfile_serialization=zipped)
    refused(content, tmp_path, name)
    assert not marker.exists()


def test_plain_pickles_do_not_run(tmp_path):
    refused(pickle.dumps(Marker(tmp_path / "marker")), tmp_path)
    assert not (tmp_path / "marker").exists()


def test_permission_is_what_runs_it(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"weight": torch.zeros(3), "x": Marker(tmp_path / "marker")}, path)
    assert open_torch(path, allow_pickle=True).weights
    assert (tmp_path / "marker").exists()


def test_archives_that_were_put_together_anew_are_read(tmp_path):
    for name, whole in FILES.items():
        assert not isinstance(outcome(with_members(whole(), lambda _, content: content), tmp_path, name), VramplanError)


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("member", ["sample_inputs/model.pt", "model_weights_config.json", "model_constants_config.json"])
def test_pickles_inside_an_exported_program_run_only_with_permission(tmp_path, member, allowed):
    marker = tmp_path / "marker"
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"x": entry}}).encode()

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(member):
            return content
        return config if name.endswith(".json") else saved(((Marker(marker),), {}))

    content = with_members(program(), change)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        root = archive.namelist()[0].partition("/")[0]
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        for folder in ("weights", "constants"):
            archive.writestr(f"{root}/data/{folder}/opaque_obj_0", pickle.dumps(Marker(marker)))
    if allowed:
        with contextlib.suppress(ModelError):
            open_torch(_written(tmp_path / "m.pt2", file.getvalue()), allow_pickle=True)
    else:
        assert "could run code" in refused(file.getvalue(), tmp_path, "m.pt2")
    assert marker.exists() is allowed


EVIL = {
    "an operator": ('"torch.ops.aten.conv2d.default"', '"torch.os.system"'),
    "a library": ('"torch.ops.aten.conv2d.default"', '"torch.ops.load_library"'),
    "a getter": ('"torch.ops.aten.conv2d.default"', '"_operator.attrgetter"'),
    "a dunder": ('"torch.ops.aten.conv2d.default"', '"torch.ops.aten.conv2d.__class__"'),
    "a file": ('"torch.ops.aten.conv2d.default"', '"torch.ops.aten.from_file.default"'),
    "a name": ('"name": "input"', '"name": "input=print(1)"'),
    "a size": ("Symbol('", "__import__('os').system('x') or Symbol('"),
    "a tower": ("Symbol('", "9**9**9**9**9*Symbol('"),
}


@pytest.mark.parametrize("name", EVIL)
def test_texts_that_torch_would_evaluate(tmp_path, name):
    old, new = (text.encode() for text in EVIL[name])
    hits = []

    def change(member: str, content: bytes) -> bytes:
        hits.append(old in content and "/models/" in member)
        return content.replace(old, new) if hits[-1] else content

    assert "could run code" in refused(with_members(program(), change), tmp_path, "m.pt2")
    assert any(hits)


@pytest.mark.parametrize("text", ["Symbol('s0', integer=True)", "2*s0 + 1", "Max(1, s0//2)", "Mod(s77, 2)", "s0**2", "-1"])
def test_sizes_that_torch_writes(text):
    assert _is_expression(text)


@pytest.mark.parametrize("text", ["exit()", "s0.__class__", "[s0]", "lambda: s0", "'x'", 's0 if "a" else 1', "é", "s0;s1"])
def test_sizes_that_it_does_not(text):
    assert not _is_expression(text)


def test_scripts_that_write_files_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        class Writes(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                torch.save(x, "stolen")
                return x

        file = io.BytesIO()
        torch.jit.save(torch.jit.script(Writes()), file)
    assert "reaches the file system" in refused(file.getvalue(), tmp_path)


def test_a_script_with_a_text_of_three_gigabytes(tmp_path):
    def change(member: str, content: bytes) -> bytes:
        return content.replace(b"X\x06\0\0\0weight", b"X\x06\0\0\xc0weight") if member.endswith("data.pkl") else content

    assert "only" in refused(with_members(script(), change), tmp_path)


def bomb(name: str, size_bytes: int) -> bytes:
    """An archive whose member *name* inflates to this size."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner in ("archive_format", "constants.pkl", "code/x.py"):
            archive.writestr(f"a/{inner}", "pt2")
        with archive.open(f"a/{name}", "w", force_zip64=True) as member:
            for _ in range(size_bytes >> 20):
                member.write(bytes(1 << 20))
    return file.getvalue()


@pytest.mark.parametrize("name", ["models/model.json", "data.pkl", "data/0"])
def test_zip_bombs(tmp_path, name):
    assert "inflate to" in refused(bomb(name, 600 << 20), tmp_path, "m.pt2")


def test_members_that_claim_more_than_the_file(tmp_path):
    content = bytearray(weights())
    at = content.rindex(b"PK\x01\x02")  # the last member of the central directory: 24 bytes on lies its size
    content[at + 24 : at + 28] = struct.pack("<I", 0xFFFF_FFF0)
    assert "more than the file has" in refused(bytes(content), tmp_path)


def test_tensors_that_claim_more_than_the_file(tmp_path):
    def change(member: str, content: bytes) -> bytes:
        return content.replace(b"M\x00\x10", b"J\xff\xff\xff\x7f") if member.endswith("data.pkl") else content  # 4096 to 2^31

    assert "cannot be read" in refused(with_members(saved({"w": torch.zeros(4096)}), change), tmp_path)


def test_containers_that_hold_themselves(tmp_path):
    loop: list[Any] = [torch.zeros(2)]
    loop.append(loop)
    deep: Any = torch.zeros(1)
    for _ in range(40):
        deep = [deep, deep]
    assert len(outcome(saved({"loop": loop, "deep": deep}), tmp_path).weights) == 3  # type: ignore[attr-defined]


def test_safetensors_are_read(tmp_path):
    header = {"__metadata__": {"a": "b"}, "w": tensor(0, 16), "i": tensor(16, 24, (2, 4), "I8"), "e": tensor(24, 24, (0, 3))}
    model: Any = outcome(safetensors(header, bytes(24)), tmp_path, "m.safetensors")
    assert [(w.name, w.shape, w.dtype, w.size_bytes) for w in model.weights] == [
        ("w", (4,), "float32", 16), ("i", (2, 4), "int8", 8), ("e", (0, 3), "float32", 0),
    ]  # fmt: skip
    assert bind_inputs(model).named == ()


HEADERS = {
    "a length of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "a length past the end": struct.pack("<Q", 100) + b"{}",
    "seven bytes": b"\0" * 7,
    "no JSON": safetensors(b"{nope"),
    "a list": safetensors([1]),
    "nested without end": safetensors(b"[" * 1_000_000),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "a huge number": safetensors(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, ' + b"9" * 5000 + b"]}}"),
    "offsets past the end": safetensors({"w": tensor(0, 16)}, bytes(8)),
    "overlapping offsets": safetensors({"a": tensor(0, 16), "b": tensor(8, 24)}, bytes(24)),
    "offsets backwards": safetensors({"a": tensor(16, 0)}, bytes(24)),
    "negative offsets": safetensors({"a": tensor(-16, 0)}, bytes(24)),
    "a size of another shape": safetensors({"a": tensor(0, 16, (5,))}, bytes(24)),
    "a shape that overflows": safetensors({"a": tensor(0, 16, (1 << 40, 1 << 40))}, bytes(24)),
    "a negative shape": safetensors({"a": tensor(0, 16, (-2, -2))}, bytes(24)),
    "a shape of truths": safetensors({"a": tensor(0, 4, (True,))}, bytes(24)),
    "a shape of fractions": safetensors({"a": tensor(0, 16, (4.0,))}, bytes(24)),
    "no shape": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, bytes(24)),
    "an unknown dtype": safetensors({"a": tensor(0, 16, (4,), "Q9")}, bytes(24)),
    "a dtype that is a list": safetensors({"a": tensor(0, 16, (4,), [])}, bytes(24)),
    "three offsets": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}, bytes(24)),
    "a tensor that is text": safetensors({"a\x1b[2J": "w"}, bytes(24)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(tmp_path, name):
    assert "cannot be read" in refused(HEADERS[name], tmp_path, "m.safetensors")


@pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.ts", "m.safetensors"])
@pytest.mark.parametrize("content", [b"", b"P", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\0", b"RIFFWAVE", b"\0" * 100])
def test_garbage(tmp_path, name, content):
    refused(content, tmp_path, name)


def test_folders_and_absent_files(tmp_path):
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "no.pt", "no file is called"), (Path("x\x1b[2J.pt"), "no file")):
        with pytest.raises(ModelError, match=said) as caught:
            open_torch(path)
        assert caught.value.message.isprintable()


def test_archives_of_others(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    assert "not one that PyTorch writes" in refused(file.getvalue(), tmp_path)


FILES = {"m.pt": weights, "m.ts": script, "m.pt2": program}


@pytest.mark.parametrize("name", FILES)
def test_truncation(tmp_path, name):
    content = FILES[name]()
    for place in range(0, len(content), len(content) // 25):
        refused(content[:place], tmp_path, name)


@budget
@given(
    name=st.sampled_from([*FILES, "m.safetensors"]),
    flips=st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=6),
)
def test_flipped_bits(tmp_path_factory, name, flips):
    whole = safetensors({"w": tensor(0, 16), "v": tensor(16, 24, (2,))}, bytes(24))
    damaged = bytearray(FILES[name]() if name in FILES else whole)
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    outcome(bytes(damaged), tmp_path_factory.getbasetemp(), name)


@budget
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{"]))
def test_arbitrary_bytes(tmp_path_factory, content, start):
    outcome(start + content, tmp_path_factory.getbasetemp())


@budget
@given(data=st.data())
def test_damaged_members(tmp_path_factory, data):
    """Inside the archive, past its checksums: a byte of one member is another."""
    name = data.draw(st.sampled_from(sorted(FILES)))
    members = zipfile.ZipFile(io.BytesIO(FILES[name]())).namelist()
    chosen = data.draw(st.sampled_from([member for member in members if "/data/" not in member or "sample" in member]))

    def change(member: str, content: bytes) -> bytes:
        if member != chosen or not content:
            return content
        damaged = bytearray(content)
        damaged[int(data.draw(places) * len(damaged))] ^= data.draw(st.integers(1, 255))
        return bytes(damaged)

    outcome(with_members(FILES[name](), change), tmp_path_factory.getbasetemp(), name)


def test_a_legacy_file_whose_compression_lies(tmp_path):
    refused(b"\x80\x02" + zlib.compress(bytes(1000)), tmp_path)
