"""GPU memory as a test: the marker ``vram`` and the fixture ``vram`` for pytest. No GPU is needed.

::

    @pytest.mark.vram(limit="2GiB", batch=8, precision="fp16", gpu="3090")
    def test_detector():
        return Detector(), (torch.empty(1, 3, 640, 640),)

    def test_head(vram):
        assert vram(Head(), args=(torch.empty(8, 256),), precision="fp16").budget.weights_bytes < 2**20
        vram.assert_fits(Head(), args=(torch.empty(8, 256),), limit="1GiB")

pytest loads this module in every project of an environment that has vramplan, so it imports nothing heavy: neither PyTorch
nor onnx, before a test asks.
"""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from vramplan.errors import UsageError, VramplanError, close_matches

if TYPE_CHECKING:
    from vramplan.result import Estimate
    from vramplan.verdict import Change

MARKER = "vram"
SHOWN_BUFFERS = 15
"""Rows of the peak in a failure."""

OPTIONS = ("batch", "precision", "gpu", "runtime", "memory_format", "args", "kwargs", "shapes", "dims", "drop_outputs")
"""What `vramplan.estimate` is asked with; the marker passes the same on."""

_MARKER_KEYS = ("limit", "fixture", *OPTIONS)


class Vram:
    """What the fixture ``vram`` hands out: estimates, and an assertion that a model fits."""

    def __call__(self, model: Any, **options: Any) -> Estimate:
        """The estimate of *model*: a module, ``(module, args)``, a file or a zoo name; *options* as `vramplan.estimate`.

        Raises `UsageError`, `ModelError` and `MachineError` as that does.
        """
        from vramplan.estimate import estimate  # noqa: PLC0415  only who asks pays for it

        for name in options:
            if name not in OPTIONS:
                raise UsageError(f"vram: unknown option {name!r}", hint=close_matches(name, OPTIONS))
        subject, inputs = _parted(model)
        return estimate(subject, **{**inputs, **options})

    def assert_fits(self, model: Any, *, limit: str | int | None = None, **options: Any) -> Estimate:
        """Fail, with who is alive at the peak, when *model* takes more than *limit* (``"2GiB"``) or than the card of *gpu*.

        *model* may be an `Estimate` too, which has its card and takes no *options*. Judged is the nominal total; the estimate
        is returned. Raises `UsageError` when there is neither a limit nor a card.
        """
        __tracebackhide__ = True
        cell, failure = self.misfit(model, limit=limit, **options)
        if failure:
            pytest.fail(failure)
        return cell

    def misfit(self, model: Any, *, limit: str | int | None, **options: Any) -> tuple[Estimate, str]:
        """The estimate, and the text of a failure; empty when it fits."""
        from vramplan.result import Estimate  # noqa: PLC0415
        from vramplan.units import parse_bytes  # noqa: PLC0415
        from vramplan.verdict import judge  # noqa: PLC0415

        limit_bytes = None if limit is None else parse_bytes(limit, what="limit")
        if isinstance(model, Estimate) and options:
            raise UsageError("an estimate takes no options", hint="Give them to vram(…), which makes the estimate.")
        cell = model if isinstance(model, Estimate) else self(model, **options)
        if limit_bytes is None and cell.gpu is None:
            raise UsageError("there is nothing to fit into", hint='Give a limit="2GiB", or a gpu="3090".')
        verdict = judge((cell,), budget_bytes=limit_bytes, gpu=cell.gpu, resolve=_unchanged)
        if verdict.fits:
            return cell, ""
        from vramplan.report.content import Report  # noqa: PLC0415
        from vramplan.report.terminal import estimate_text  # noqa: PLC0415

        return cell, estimate_text(Report(cells=(cell,), verdict=verdict, shows_peak=True, top=SHOWN_BUFFERS))


def _unchanged(cell: Estimate, change: Change) -> NoReturn:
    """A test has no flags to try: what would help is left to `vramplan estimate`."""
    raise UsageError("a test is judged as it is")


def _parted(model: Any) -> tuple[Any, dict[str, Any]]:
    """A module alone, or with its example inputs as a factory returns them: ``(module, args)``, ``(module, args, kwargs)``."""
    if not isinstance(model, tuple):
        return model, {}
    if not 1 <= len(model) <= 3:
        raise UsageError(f"a tuple of {len(model)} is no (module, args, kwargs)", hint="Return (module, (x,)).")
    return model[0], dict(zip(("args", "kwargs"), model[1:], strict=False))


@pytest.fixture
def vram() -> Vram:
    """Estimates of GPU memory: ``vram(module, args=…) -> Estimate``, ``vram.assert_fits(module, args=…, limit="2GiB")``."""
    return Vram()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, also with --strict-markers."""
    config.addinivalue_line(
        "markers",
        f'{MARKER}(limit="2GiB", batch=None, precision="as-is", gpu=None, fixture=None, …): the module that the test returns,'
        " or that one of its fixtures is, has to fit by vramplan's estimate.",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Unittest runs its methods itself: a marker there would promise and check nothing."""
    cls = getattr(item, "cls", None)
    if item.get_closest_marker(MARKER) and isinstance(cls, type) and issubclass(cls, unittest.TestCase):
        pytest.fail("the marker vram does not work in a unittest.TestCase: use a plain class or function", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run the test, keep what it returns, and judge that, or the module among its fixtures."""
    marker = pyfuncitem.get_closest_marker(MARKER)
    if marker is None:
        return (yield)
    asked = _read_marker(marker)
    function, returned = pyfuncitem.obj, list[Any]()

    @functools.wraps(function)
    def keeping(*args: Any, **kwargs: Any) -> None:
        returned.append(function(*args, **kwargs))

    if not inspect.iscoroutinefunction(function):
        pyfuncitem.obj = keeping
    try:
        answer = yield
    finally:
        pyfuncitem.obj = function
    model = next((value for value in returned if value is not None), None)
    _judge(_module_of(pyfuncitem.funcargs, asked.pop("fixture", None)) if model is None else model, asked)
    return answer


def _read_marker(marker: pytest.Mark) -> dict[str, Any]:
    """The marker's keywords; what is not known fails the test before it runs."""
    if marker.args:
        pytest.fail('marker vram: write keywords, such as limit="2GiB"', pytrace=False)
    for name in marker.kwargs:
        if name not in _MARKER_KEYS:
            pytest.fail(f"marker vram: unknown keyword {name!r}. {close_matches(name, _MARKER_KEYS)}", pytrace=False)
    return {name: value for name, value in marker.kwargs.items() if value is not None}


def _module_of(values: Mapping[str, Any], fixture: str | None) -> Any:
    """The fixture that is called so; without a name the only one that is a module, alone or with its inputs."""
    from vramplan.sources.torch_spec import is_torch_model  # noqa: PLC0415  only who asks pays for it

    if fixture is not None:
        if fixture not in values:
            pytest.fail(f"marker vram: the test has no fixture {fixture!r}. {close_matches(fixture, values)}", pytrace=False)
        return values[fixture]
    found = {}
    for name, value in values.items():
        first = value[0] if isinstance(value, tuple) and value else value
        if not isinstance(first, str) and is_torch_model(first):
            found[name] = value
    if len(found) != 1:
        what = f"several fixtures are modules: {', '.join(found)}" if found else "it returns no module, and no fixture is one"
        pytest.fail(f'marker vram: {what}. Return the module, or name it: fixture="model"', pytrace=False)
    return next(iter(found.values()))


def _judge(model: Any, asked: dict[str, Any]) -> None:
    asked.pop("fixture", None)
    try:
        _, failure = Vram().misfit(model, limit=asked.pop("limit", None), **asked)
    except VramplanError as error:
        failure = f"vramplan: {error}"
    if failure:
        pytest.fail(failure, pytrace=False)
