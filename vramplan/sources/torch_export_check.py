"""Whether a ``torch.export`` archive can be loaded without running code that it brings along.

``torch.export.load`` trusts its file: it unpickles some members, evaluates size expressions, looks operators up by
dotted name, and pastes names into Python source that it compiles. Each of those texts is checked here against what
``torch.export.save`` writes. The archive is read with torch's own reader, so that both see the same members.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch.export.pt2_archive._package import PT2ArchiveReader

from vramplan.errors import ModelError
from vramplan.sources.onnx_types import printable, show
from vramplan.sources.torch_archive import damaged, first_line

# Operators that a saved graph may name. Anything else could be any attribute of torch, such as torch.hub.load.
_DUNDER_OPS = r"__i?(?:and|or|xor|lshift|rshift)__"
_ATEN = rf"torch\.ops\.(?!_*(?:load|import|class|dir)\w*\.)\w+\.(?:(?!__)\w+|{_DUNDER_OPS})(?:\.(?!__)\w+)?"
_ARITHMETIC = "add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|and_|or_|xor|not_|eq|ne|lt|le|gt|ge|lshift|rshift|getitem"
_OPERATOR = re.compile(rf"{_ATEN}|_operator\.(?:{_ARITHMETIC})|math\.[a-z]\w*|torch\._?sym_\w+")
_FILE_OPS = re.compile(r"torch\.ops\.\w+\.(?:save|from_file|load)\b")

# Size expressions, as sympy prints them: Add(Integer(4), Symbol('s77', positive=True, integer=True)).
_TOKEN = re.compile(r"""\s*(?:(?P<name>[A-Za-z_]\w*)|'(?P<symbol>[a-z_]+\d+)'|\d{1,20}(?:\.\d{1,20})?|[-+*/%(),=<>&|~])""")
_NAMES = frozenset({
    "Symbol", "Integer", "Float", "Rational", "One", "Zero", "NegativeOne", "Half", "Add", "Mul", "Pow", "Mod", "Max",
    "Min", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "LessThan", "GreaterThan", "StrictLessThan",
    "StrictGreaterThan", "And", "Or", "Not", "Piecewise", "ExprCondPair", "floor", "ceiling", "oo", "FloorDiv",
    "CeilDiv", "CleanDiv", "PythonMod", "ModularIndexing", "IntTrueDiv", "FloatTrueDiv", "FloatPow", "PowByNatural",
    "Where", "Identity", "ToFloat", "TruncToInt", "TruncToFloat", "FloorToInt", "CeilToInt", "RoundToInt",
    "RoundDecimal", "int_oo", "IsNonOverlappingAndDenseIndicator", "true", "false", "True", "False", "BooleanTrue",
    "BooleanFalse", "positive", "nonnegative", "integer", "real", "finite", "precision",
})  # fmt: skip
_SYMBOL = re.compile(r"[a-z_]+\d+")
_MAX_EXPRESSION_CHARS = 20_000
_MAX_POWERS = 3  # s0**2 is a size; a tower of them never ends

# A tree of containers is JSON inside JSON. A name may be pasted into source: no bracket, quote, '=' or line break.
_SPEC = re.compile(r"""(?:[^()=;\n\r\\]|\\["\\])*""")
_NAME = re.compile(r"""[^()\[\]{}"'=;\n\r\\@`]*""")
_SPECS = frozenset({"in_spec", "out_spec"})
_FREE_TEXTS = frozenset({"guards_code", "as_string", "as_strings", "torch_version"})  # repr'd, compared or never used


def check_export(path: Path) -> None:
    """ModelError when loading *path* would run code of its own."""
    try:
        reader = PT2ArchiveReader(str(path))
        texts = {name: reader.read_bytes(name) for name in reader.get_file_names() if name.endswith(".json")}
        programs = {name: json.loads(text) for name, text in texts.items()}
    except (Exception, RecursionError) as error:  # noqa: BLE001,RUF100  whatever hostile bytes make of torch
        raise damaged(path, first_line(error)) from None
    if not any(name.startswith("models/") for name in programs):
        raise ModelError(f"{show(str(path))} holds no torch.export program", hint="Write it with torch.export.save.")
    for where, key, text in _texts(programs.values()):
        if why := _danger(where, key, text):
            raise refusal(path, why)


def refusal(path: Path, why: str) -> ModelError:
    """The one error about an archive that would run code."""
    message = f"{show(str(path))}: loading it could run code of the file: {why}"
    return ModelError(message, hint="If you trust the file, add --allow-pickle.")


def _texts(programs: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """Every text that torch may read a meaning into: the list or object it lies in, its key, itself."""
    pending: list[tuple[str, str, Any]] = [("", "", program) for program in programs]
    while pending:
        where, key, value = pending.pop()
        if isinstance(value, dict):
            yield from ((key, "", name) for name in value)
            pending.extend((key, name, inner) for name, inner in value.items() if not _is_free(value, name))
        elif isinstance(value, list):
            pending.extend((key, key, inner) for inner in value)
        elif isinstance(value, str):
            yield where, key, value


def _is_free(holder: dict[str, Any], name: str) -> bool:
    """Whether *name* in *holder* is text that nothing is made of. A tensor may have such a name too, but is no text."""
    value = holder[name]
    if name == "metadata":
        return isinstance(holder.get("target"), str)  # of a node: where in the source it comes from
    texts = value if isinstance(value, list) else [value]
    return name in _FREE_TEXTS and all(isinstance(text, str) for text in texts)


def _danger(where: str, key: str, text: str) -> str:
    """Why *text* may not be loaded; empty when it is what torch writes."""
    if key == "expr_str":
        return "" if _is_expression(text) else f"the size {show(text)}"
    if key == "as_operator" or (key == "target" and where == "nodes"):
        return "" if _OPERATOR.fullmatch(text) and not _FILE_OPS.match(text) else f"the operator {show(text)}"
    if key == "path_name" and text.startswith("opaque"):
        return f"the pickled constant {show(text)}"
    pattern = _SPEC if key in _SPECS else _NAME
    return "" if pattern.fullmatch(text) else f"the name {printable(text)[:80]}"


def _is_expression(text: str) -> bool:
    """Whether *text* is made of sizes, known functions and arithmetic, and of nothing that could take forever."""
    place = 0
    while place < len(text.rstrip()):
        token = _TOKEN.match(text, place)
        if token is None:
            return False
        name = token["name"]
        if name and name not in _NAMES and not _SYMBOL.fullmatch(name):
            return False
        place = token.end()
    powers = text.count("**") + text.count("Pow")
    return len(text) <= _MAX_EXPRESSION_CHARS and powers <= _MAX_POWERS
