"""The documentation site is whole: it is built without a warning, and its pages name what there is."""

import re
import subprocess
import sys

import vramplan as vp
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
