"""JSON Schemas that come with data: they fetch nothing and take no time without end."""

from __future__ import annotations

from typing import Any

from soup_git.core.adapter import is_safe_pattern
from soup_git.data.rows import BadRowError


def validator_of(schema: dict[str, Any]) -> Any:
    """A validator that fetches nothing and runs no pattern that may take for ever.

    Raises BadRowError for what is no schema. Needs jsonschema, of the extra `eval`.
    """
    from jsonschema import SchemaError, validators
    from referencing import Registry

    kind = validators.validator_for(schema, default=validators.validator_for({}))
    try:
        kind.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        why = str(getattr(error, "message", error)).splitlines()[0][:200]
        raise BadRowError(f"needs a JSON Schema: {why}") from None
    for pattern in _patterns(schema):
        if not is_safe_pattern(pattern):
            raise BadRowError(f"has a pattern that cannot be matched safely: {pattern[:80]!r}")
    return kind(schema, registry=Registry())


def _patterns(value: Any) -> list[str]:
    found: list[str] = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            if isinstance(here.get("pattern"), str):
                found.append(here["pattern"])
            if isinstance(here.get("patternProperties"), dict):
                found += here["patternProperties"]
            waiting += here.values()
        elif isinstance(here, list):
            waiting += here
    return found
