"""The published JSON Schemas, and the page of all keys: both made of the contract.

python -m tests.docs.schema     write them again
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.docs.console import ROOT
from tests.docs.contract import OUTPUTS, schema_of

FOLDER = ROOT / "docs" / "reference" / "schema"
PAGE = ROOT / "docs" / "reference" / "json-keys.md"

HEAD = """# Every key of every JSON output

Made from the same description as the schemas ([how to read and check them](json.md)). Keys marked *may be absent* are left out
where they do not apply; all others are always there. `or null` is a value that nobody knows, or that does not apply.
"""


def files() -> dict[str, str]:
    """Every published schema by its file's name."""
    return {f"{name}.json": json.dumps(schema_of(name), indent=2) + "\n" for name in OUTPUTS}


def page() -> str:
    """A section an output, a table an object; an object of several outputs stands with the first of them."""
    lines, told = [HEAD], set[str]()
    for name in OUTPUTS:
        schema = schema_of(name)
        lines += [f"## {name}", "", f"{schema['description']} Schema: [{name}.json](schema/{name}.json).", ""]
        lines += [*_table(schema), ""]
        inside = schema.get("$defs", {})
        for object_name in sorted(inside.keys() - told, key=[*inside].index):
            lines += _section(object_name, inside[object_name])
        told |= inside.keys()
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, schema: dict[str, Any]) -> list[str]:
    description = [schema["description"], ""] if "description" in schema else []
    return [f"### {name}", "", *description, *_table(schema), ""]


def _table(schema: dict[str, Any]) -> Iterator[str]:
    yield "| key | what it is | type |"
    yield "|---|---|---|"
    for key, value in schema["properties"].items():
        kind = _kind(value) + ("" if key in schema.get("required", ()) else ", *may be absent*")
        yield f"| `{key}` | {value.get('description', '').replace('|', '/')} | {kind} |"


def _kind(value: dict[str, Any]) -> str:
    """A type in words, with links to objects."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return " ".join(f"`{json.dumps(each)}`" for each in value["enum"])
    if "anyOf" in value:
        return " or ".join(_kind(each) for each in value["anyOf"])
    if value.get("type") == "array":
        return f"list of {_kind(value['items'])}"
    if value.get("type") == "object":
        return f"object of {_kind(value['additionalProperties'])} by name"
    return str(value["type"])


def write() -> None:
    """Write the schemas and the page; a schema of an output that is gone goes too."""
    FOLDER.mkdir(exist_ok=True)
    made = files()
    for old in FOLDER.glob("*.json"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
