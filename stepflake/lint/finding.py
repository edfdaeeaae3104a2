"""What the lint reports, and how it names a place and a near miss."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing to fix.

    `where`: the path inside of a definition (`States.Process.Retry[0]`), or a logical id of the template and
    what is inside of it (`WorkFunction.Tasks`); empty for the whole. `file`: empty where no file was read.
    """

    where: str
    problem: str
    remedy: str
    file: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.problem) if part) + f"; {self.remedy}"


def below(where: str, step: str) -> str:
    """The path of `step` inside of `where`."""
    return f"{where}.{step}" if where else step


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A remedy's hint at the name that was probably meant, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
