"""The JSON documents that workflows take as input, checked before a run starts."""

import json
from decimal import Decimal

import jsonschema

from core.catalog import Workflow
from core.exact_json import Json

# From here on not every whole number is a double.
EXACT = 2**53

# What an error shows of a value, and how long it gets itself.
SHOWN_CHARS = 60
MESSAGE_CHARS = 500


def check_document(workflow: Workflow, document: Json) -> Json:
    """The document as a state machine reads it: its numbers are doubles, and whole ones have no point.

    Raises ValueError, which names the path inside the document and what is wrong there.
    """
    document = as_doubles(document)
    validator = jsonschema.Draft202012Validator(workflow.schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise ValueError(f"at {error.json_path}: {_message(error)}")
    return document


def as_doubles(value: Json, path: str = "$") -> Json:
    """The value as a state machine reads it. Raises ValueError for a number that would change there."""
    if isinstance(value, dict):
        return {key: as_doubles(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [as_doubles(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return value
    number = float(value)
    if isinstance(value, int | Decimal) and Decimal(repr(number)) != value:
        raise ValueError(
            f"at {path}: {value} has more digits than a state machine keeps; send it as a string"
        )
    # Snowflake writes the FLOAT 10 as 1.000000000000000e+01.
    return int(number) if number.is_integer() and abs(number) < EXACT else number


def _message(error: jsonschema.ValidationError) -> str:
    if error.validator in ("anyOf", "oneOf") and error.context:
        ways = dict.fromkeys(_message(each) for each in error.context)
        return _shortened(", or ".join(ways), MESSAGE_CHARS)
    # jsonschema begins with the value, all of it, and writes it as Python does.
    value, message = error.instance, error.message
    if message.startswith(repr(value)):
        shown = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        message = _shortened(shown, SHOWN_CHARS) + message[len(repr(value)) :]
    return _shortened(message, MESSAGE_CHARS)


def _shortened(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
