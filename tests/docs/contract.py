"""The one description of every JSON output: the schemas and the tables of keys are made of it, and outputs are held to it.

A new key of an output is a line in the class of its object, with its description below it, in ``contract_*.py``; then
``python -m tests.docs.schema`` writes the published files.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema

from tests.docs import contract_estimate, contract_machine, contract_streams
from tests.docs.contract_base import Output

OUTPUTS: dict[str, type[Output]] = {
    "estimate": contract_estimate.Estimate,
    "streams": contract_streams.Plan,
    "gpus": contract_streams.Gpus,
    "lock": contract_estimate.Lock,
    "check": contract_estimate.Check,
    "diff": contract_estimate.Diff,
    "measure": contract_machine.Measure,
    "max-batch": contract_machine.MaxBatch,
    "verify": contract_machine.Verify,
    "replay": contract_estimate.Replay,
    "watch-sample": contract_machine.WatchSample,
    "watch-summary": contract_machine.WatchSummary,
    "doctor": contract_machine.Doctor,
    "calibrate": contract_machine.Calibrated,
    "calibrations": contract_machine.Calibrations,
    "calibration": contract_machine.Calibration,
}
"""By the name of the published file, in the order of the documentation."""


@functools.cache
def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one output."""
    made = OUTPUTS[name].model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:vramplan:schema:1:{name}",
        **_tidy(made),
        "title": f"vramplan {name}",
    }


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the titles that only repeat the keys, and with descriptions in one line."""

    def walk(value: Any, *, is_properties: bool = False) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: item for key, item in value.items() if is_properties or key != "title"}
        made = {key: walk(item, is_properties=key in {"properties", "$defs"}) for key, item in kept.items()}
        if not is_properties and isinstance(made.get("description"), str):
            made["description"] = " ".join(made["description"].split())
        return made

    return walk(schema)


def check(name: str, text: str) -> None:
    """AssertionError that names the place where *text* is not what the schema *name* says."""
    errors = sorted(jsonschema.Draft202012Validator(schema_of(name)).iter_errors(json.loads(text)), key=lambda e: list(e.path))
    assert not errors, "\n".join(f"{name}{error.json_path[1:]}: {error.message[:300]}" for error in errors[:5])


def check_command(words: tuple[str, ...], out: str) -> None:
    """Hold what a command printed to its schema; commands without --json print no JSON."""
    if "--json" not in words or not out.lstrip().startswith("{"):
        return
    for name, text in _texts(words, out):
        check(name, text)


def _texts(words: tuple[str, ...], out: str) -> Iterator[tuple[str, str]]:
    command = words[0]
    if command == "watch":
        for line in out.splitlines():
            yield f"watch-{json.loads(line)['kind']}", line
    elif command == "calibrate" and {"--show", "--export", "--import"} & {*words}:
        yield "calibrations", out
    elif command == "measure" and "--find-max-batch" in words:
        yield "max-batch", out
    else:
        yield command, out
