"""Small changes to a nested document, for tests that break one thing in a valid document."""

from collections.abc import Callable
from typing import Any

Document = dict[str, Any]
Edit = Callable[[Document], object]


def at(document: Document, path: str) -> Any:
    """The value at a path such as `States.Each.Catch[0]` (names have no dots); at the empty path, all."""
    value: Any = document
    for step in path.replace("[", ".").replace("]", "").split(".") if path else []:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def put(path: str, **fields: Any) -> Edit:
    return lambda document: at(document, path).update(fields)


def drop(path: str, field: str) -> Edit:
    return lambda document: at(document, path).pop(field)


def insert(path: str, index: int, item: Any) -> Edit:
    return lambda document: at(document, path).insert(index, item)
