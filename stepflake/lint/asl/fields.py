"""Which fields there are, by the schemas of `schema.py`: their errors as findings."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from stepflake.lint.asl import schema
from stepflake.lint.finding import Finding, below, did_you_mean

_MAX_SHOWN = 60


def lint_fields(value: Mapping[str, Any], where: str, fields: schema.Schema) -> Iterator[Finding]:
    """What the schema `fields` says against `value`."""
    for error in Draft202012Validator(fields).iter_errors(value):
        yield from _findings(error, where)


def _findings(error: ValidationError, where: str) -> Iterator[Finding]:
    for step in error.absolute_path:
        where = f"{where}[{step}]" if isinstance(step, int) else below(where, step)
    instance: Any = error.instance
    properties = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties":
        yield from _unknown(instance, where, properties)
    elif error.validator == "required":
        required: Any = error.validator_value
        missing = [name for name in required if name not in instance]
        for name in missing:
            remedy = properties.get(name, {}).get("description", "add it")
            yield Finding(where, f"{name} is missing", remedy)
    else:
        remedy = error.schema.get("description") if isinstance(error.schema, Mapping) else None
        value = json.dumps(instance)
        shown = value if len(value) <= _MAX_SHOWN else value[: _MAX_SHOWN - 3] + "..."
        yield Finding(where, f"{shown} can't stand here", remedy or error.message)


def _unknown(instance: Any, where: str, properties: Mapping[str, Any]) -> Iterator[Finding]:
    for name in sorted(set(instance) - set(properties)):
        if name in schema.JSONPATH_FIELDS:
            yield Finding(where, f"{name} belongs to JSONPath", schema.JSONPATH_FIELDS[name])
        else:
            yield Finding(
                where, f"there is no field {name!r} here", f"remove it{did_you_mean(name, properties)}"
            )
