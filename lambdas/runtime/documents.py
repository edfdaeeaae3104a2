"""The JSON documents that workflows take as input, checked before a run starts."""

from decimal import Decimal

import jsonschema

from runtime.catalog import Workflow
from runtime.wire import Json


def check_document(workflow: Workflow, document: Json) -> None:
    """Raises ValueError, which names the path inside the document and what is wrong there."""
    validator = jsonschema.Draft202012Validator(workflow.schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise ValueError(f"at {error.json_path}: {error.message}")
    check_digits(document)


def check_digits(value: Json, path: str = "$") -> None:
    """Raises ValueError for a number that would change in a state machine, which reads numbers as doubles."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_digits(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_digits(item, f"{path}[{index}]")
    elif isinstance(value, int | Decimal) and Decimal(repr(float(value))) != value:
        raise ValueError(
            f"at {path}: {value} has more digits than a state machine keeps; send it as a string"
        )
