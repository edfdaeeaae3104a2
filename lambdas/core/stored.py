"""Documents that may be older than the code: items of the table, messages, the input of an execution."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def read_stored(cls: type[T], document: Mapping[str, Any]) -> T:
    """The dataclass that a stored document holds, whichever version of the code wrote it.

    A field that the document lacks has its default, so a field that is added needs one. Fields that the class
    does not have are ignored. Raises TypeError where a field without a default is missing.
    """
    return cls(**{field.name: document[field.name] for field in fields(cls) if field.name in document})
