"""Faults on demand: which share of calls is throttled, loses its answer or is late, and of workers dies."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from stepflake.errors import UserError

# At most this long is a late answer late, unless --fault delay=PROBABILITY:SECONDS says otherwise.
DELAY_SECONDS = 1.0


class FaultError(UserError):
    """A fault that does not exist, or a value that it cannot have."""


@dataclass(frozen=True)
class Faults:
    """Shares between 0 and 1 of all calls, and of all invocations for `kill`. With one seed, the nth call of
    an operation always has the same fate."""

    throttle: float = 0
    lost: float = 0
    kill: float = 0
    delay: float = 0
    delay_seconds: float = DELAY_SECONDS
    seed: int = 0

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Of throttle=0.08, lost=0.03, kill=0.02, delay=0.1 or delay=0.1:2, seed=7. Raises FaultError."""
        faults = cls()
        for text in texts:
            name, _, value = text.partition("=")
            try:
                faults = replace(faults, **_parse(name, value))
            except ValueError:
                raise FaultError(
                    f"The fault {text!r} is not valid: throttle, lost, kill and delay are shares between 0"
                    " and 1, such as throttle=0.08; delay=0.1:2 is late by up to 2 s; seed=7 repeats a run."
                ) from None
        return faults

    @property
    def any(self) -> bool:
        """Whether anything can happen at all."""
        return bool(self.throttle or self.lost or self.kill or self.delay)

    def chance(self, what: str, number: int) -> float:
        """A number in [0, 1) that depends only on the seed, `what` and `number`."""
        digest = hashlib.sha256(f"{self.seed}/{what}/{number}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64


def _parse(name: str, value: str) -> dict[str, Any]:
    if name == "seed":
        return {"seed": int(value)}
    if name not in ("throttle", "lost", "kill", "delay"):
        raise ValueError(name)
    share, colon, seconds = value.partition(":")
    parsed: dict[str, Any] = {name: float(share)}
    if not 0 <= parsed[name] <= 1 or (colon and name != "delay"):
        raise ValueError(value)
    if colon:
        parsed["delay_seconds"] = float(seconds)
        if not 0 < parsed["delay_seconds"] <= 60:  # noqa: PLR2004 - longer is a lost answer
            raise ValueError(value)
    return parsed
