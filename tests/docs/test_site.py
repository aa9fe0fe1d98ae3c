"""The documentation site is whole: it is built without a warning, and its pages name what there is."""

import re
import shutil
import subprocess
import sys

import pytest

import vramplan as vp
from tests.docs import commands
from tests.docs.console import ROOT


def test_the_site_is_built_without_a_warning(tmp_path):
    """Sphinx warns of a page that is in no toctree, a link that leads nowhere, an object that cannot be documented."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    built = subprocess.run([*command, "docs", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    assert (tmp_path / "site" / "index.html").exists()


def test_the_python_page_has_every_public_name_once():
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)) == sorted(vp.__all__)


def test_the_reference_of_the_command_line_is_current():
    assert commands.PAGE.read_text(encoding="utf-8") == commands.page()
    assert commands.MANUAL.read_text(encoding="utf-8") == commands.manual()


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_man_page_is_rendered_without_a_complaint():
    command = ["groff", "-man", "-Tutf8", "-ww", str(commands.MANUAL)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert "EXIT STATUS" in re.sub(r"\x1b\[[\d;]*m|.\x08", "", found.stdout)


def test_every_flag_is_in_the_man_page():
    text = commands.MANUAL.read_text(encoding="utf-8").replace("\\-", "-")
    params = [param for command in commands.program().commands.values() for param in command.params if not param.hidden]
    assert len(params) > 100
    assert [param.name for param in params if param.param_type_name == "option" and param.opts[-1] not in text] == []
