"""The inputs of workflows, checked before a run starts."""

import json
from decimal import Decimal

import jsonschema

from core.catalog import Workflow
from core.errors import TaskError
from core.exact_json import Json
from core.shorten import shorten

# Above this, not every whole number is a double.
EXACT = 2**53

# How many characters of a value an error shows, and how many it has in all.
SHOWN_CHARS = 60
MESSAGE_CHARS = 500


class InputError(TaskError):
    """An input that does not match the workflow's schema; the message names the path in it."""


def validate(workflow: Workflow, document: Json) -> Json:
    """The input as a state machine reads it: its numbers are doubles, and whole ones have no point.

    Raises InputError.
    """
    document = as_doubles(document)
    validator = jsonschema.Draft202012Validator(workflow.schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise InputError(f"at {error.json_path}: {_message(error)}")
    return document


def as_doubles(value: Json, path: str = "$") -> Json:
    """The value as a state machine reads it. Raises InputError for a number that would change there."""
    if isinstance(value, dict):
        return {key: as_doubles(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [as_doubles(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return value
    number = float(value)
    if isinstance(value, int | Decimal) and Decimal(repr(number)) != value:
        raise InputError(
            f"at {path}: {value} has more digits than a state machine keeps; send it as a string"
        )
    # Snowflake writes the FLOAT 10 as 1.000000000000000e+01.
    return int(number) if number.is_integer() and abs(number) < EXACT else number


def _message(error: jsonschema.ValidationError) -> str:
    if error.validator in ("anyOf", "oneOf") and error.context:
        ways = dict.fromkeys(_message(each) for each in error.context)
        return shorten(", or ".join(ways), MESSAGE_CHARS)
    # jsonschema's messages begin with the whole value, written as Python does.
    value, message = error.instance, error.message
    if message.startswith(repr(value)):
        text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        message = shorten(text, SHOWN_CHARS) + message[len(repr(value)) :]
    return shorten(message, MESSAGE_CHARS)
