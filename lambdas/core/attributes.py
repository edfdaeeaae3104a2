"""DynamoDB's notation of values, {"S": "text"} or {"N": "7"}, and Python's: str, int, bool, None, and dicts.

There are no numbers with a fraction.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


def to_attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their names, as DynamoDB takes them."""
    return {name: _serialize(value) for name, value in values.items()}


def to_item(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What DynamoDB answers, as Python's values."""
    return {name: _plain(_deserialize(value)) for name, value in attributes.items()}


def _plain(value: Any) -> Any:
    # DynamoDB's numbers are Decimals in Python.
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return int(value) if isinstance(value, Decimal) else value
