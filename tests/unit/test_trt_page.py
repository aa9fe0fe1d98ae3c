import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        module = importlib.import_module("trt_memory")
        yield module, module.rows()


def test_the_page_is_what_the_benchmark_writes(benchmark):
    module, rows = benchmark
    assert module.PAGE.read_text(encoding="utf-8") == module.page(rows)


def test_judged_readings_meet_the_aims(benchmark):
    _, rows = benchmark
    judged = [row for row in rows if row.group == "judged"]
    errors = sorted(abs(row.error) for row in judged)
    assert errors[len(errors) // 2] < 0.10
    assert sum(row.is_inside for row in judged) >= 0.85 * len(judged)


def test_mnist_is_exact_to_the_byte(benchmark):
    _, rows = benchmark
    (mnist,) = {(row.nominal, row.published) for row in rows if row.id == "t131"}
    assert mnist == (31_744, 31_744)
