"""The pages of soup.yaml and of suites have a row for every key, with what a value may be."""

from __future__ import annotations

import copy

import pytest

from soup_git.evaluation.suite import json_schema as suite_schema
from soup_git.manual.schemas import Schema, config_reference, suite_reference
from soup_git.training.schema import json_schema as config_schema

FILES = {
    "soup.yaml": (config_reference, config_schema()),
    "suite": (suite_reference, suite_schema()),
}


def keys(schema: Schema) -> list[str]:
    blocks = [schema, *schema["$defs"].values()]
    return [key for block in blocks for key in block["properties"]]


@pytest.mark.parametrize("file", FILES)
def test_every_key_has_one_row(file: str) -> None:
    write, schema = FILES[file]
    rows = [line for line in write(schema).splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(keys(schema))
    assert all(row.count(" | ") == 3 for row in rows)


@pytest.mark.parametrize("file", FILES)
def test_a_new_key_shows(file: str) -> None:
    """The control of the test above, and of the generated files being current."""
    write, schema = FILES[file]
    changed = copy.deepcopy(dict(schema))
    block = next(iter(changed["$defs"].values()))
    block["properties"]["frobnicate"] = {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 2000}, {"type": "null"}],
        "default": 7,
        "description": "Either | or.",
    }
    row = "| `frobnicate` | integer, 1 to 2,000 | `7` | Either \\| or. |"
    assert row in write(changed).splitlines()
    assert "frobnicate" not in write(schema)
