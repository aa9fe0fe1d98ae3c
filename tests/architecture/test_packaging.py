"""What is installed is what is here."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_package_is_listed():
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "vramplan").rglob("__init__.py")}
    assert set(SETTINGS["packages"]) == found | {"vramplan.models", "vramplan.schema"}


@pytest.mark.parametrize("package", sorted(SETTINGS["packages"]))
def test_every_data_file_is_shipped(package):
    folder = ROOT / SETTINGS["package-dir"].get(package, package.replace(".", "/"))
    subpackages = {path.parent for path in folder.rglob("__init__.py")} - {folder}
    shipped = {path for pattern in SETTINGS["package-data"].get(package, ()) for path in folder.glob(pattern)}
    data = {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and not any(parent in subpackages for parent in path.parents)
    }
    assert data == shipped
