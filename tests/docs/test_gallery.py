from pathlib import Path

import pytest

from tests.docs.gallery import FOLDER, PAGES, output, program


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_program_prints_what_its_page_shows(page: Path):
    code, shown = program(page)
    for package in ("torch", "onnxruntime"):
        if package in code:
            pytest.importorskip(package)
    assert output(code) == shown


def test_every_program_is_on_the_first_page_of_the_gallery():
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f"({page.name})" not in index] == []
    assert len(PAGES) >= 5
