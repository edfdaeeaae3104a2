"""Remote functions whose calls are counted, and the chunks that call them."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core.calls import rows as chunk_rows
from core.calls.answers import StoredAnswers
from core.calls.rows import run_rows
from core.catalog import Parameter, Signature

PREFIX = "batches/e/chunk-00000-answers-"

Values = list[Any]


def write_code(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Files of functions of these names, whose version is that of their code."""
    monkeypatch.setattr(chunk_rows, "FUNCTIONS_DIR", folder)
    for name in names:
        (folder / f"{name}.py").write_text(f"def {name}(a): ...\n")


class Counted:
    """A remote function `f(a VARIANT)`: [its argument], or what `answer` makes of it.

    `calls`: the arguments of each call, one of a row-by-row function. `before`: what it does first, with the
    arguments of the call.
    """

    def __init__(
        self,
        answer: Callable[[Any], Any] = lambda value: [value],
        before: Callable[[Values], None] = lambda values: None,
        **options: Any,
    ) -> None:
        self.calls: list[Values] = []
        self.answer, self.before = answer, before
        self.signature = Signature("f", (Parameter("a", "Any"),), variadic=False, returns="Any", **options)

    def __call__(self, argument: Any) -> Any:
        values = list(argument) if self.signature.vectorized else [argument]
        self.calls.append(values)
        self.before(values)
        if not self.signature.vectorized:
            return self.answer(argument)
        return [self._answer_or_error(value) for value in values]

    def _answer_or_error(self, value: Any) -> Any:
        try:
            return self.answer(value)
        except Exception as error:  # noqa: BLE001 - an item of the list that is an error is its row's
            return error

    def run(self, arguments: Sequence[Any], *, first: int = 0, again: bool | None = None) -> Values:
        """The values that the rows of a chunk become.

        `again`: whether it is a retry; None where nothing is stored.
        """
        stored = None if again is None else StoredAnswers(PREFIX, is_first=not again)
        texts = run_rows(self.signature, self, [[argument] for argument in arguments], first, stored)
        return [json.loads(text, parse_float=Decimal) for text in texts]

    @property
    def called(self) -> Values:
        """All arguments that it was called with, in the order of the calls."""
        return [value for call in self.calls for value in call]
