"""Faults on demand: which share of calls is throttled, fails, is lost or late, and which of workers dies."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from stepflake.errors import UserError

# At most this long is a late answer late, unless --fault delay=PROBABILITY:SECONDS says otherwise.
DELAY_SECONDS = 1.0

# The services that the stack's roles call while it runs, and its API.
SERVICES = ("s3", "dynamodb", "states", "sqs", "sns", "comprehend", "lambda", "execute-api")

_SHARES = ("throttle", "fail", "lost", "delay", "kill")


class FaultError(UserError):
    """A fault that does not exist, or a value that it cannot have."""


@dataclass(frozen=True)
class Faults:
    """Shares between 0 and 1 of all calls, and of all invocations for `kill`. With one seed, the nth call of
    an operation always has the same fate.

    `services`: only their calls have faults; empty for all. `kill` does not depend on it.
    """

    throttle: float = 0
    fail: float = 0
    lost: float = 0
    kill: float = 0
    delay: float = 0
    delay_seconds: float = DELAY_SECONDS
    seed: int = 0
    services: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Of throttle=0.08, fail=0.05, lost=0.03, kill=0.02, delay=0.1 or delay=0.1:2, service=s3,comprehend,
        seed=7. Several services may also be named one by one. Raises FaultError."""
        faults = cls()
        for text in texts:
            name, _, value = text.partition("=")
            try:
                parsed = _parse(name, value)
            except ValueError:
                raise FaultError(
                    f"The fault {text!r} is not valid: {', '.join(_SHARES[:-1])} and {_SHARES[-1]} are shares"
                    " between 0 and 1, such as throttle=0.08; delay=0.1:2 is late by up to 2 s;"
                    f" service=NAME is one of {', '.join(SERVICES)}; seed=7 repeats a run."
                ) from None
            if "services" in parsed:
                parsed["services"] = tuple(dict.fromkeys((*faults.services, *parsed["services"])))
            faults = replace(faults, **parsed)
        return faults

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of what `dataclasses.asdict` made of faults, after JSON."""
        return cls(**{**document, "services": tuple(document.get("services", ()))})

    def texts(self) -> list[str]:
        """What `parse` reads these faults from, without what is off."""
        shares = [f"{name}={getattr(self, name):g}" for name in _SHARES if getattr(self, name)]
        texts = [f"{text}:{self.delay_seconds:g}" if text.startswith("delay=") else text for text in shares]
        if self.services:
            texts.append(f"service={','.join(self.services)}")
        return [*texts, f"seed={self.seed}"]

    @property
    def any(self) -> bool:
        """Whether anything can happen at all."""
        return any(getattr(self, name) for name in _SHARES)

    def concern(self, service: str) -> bool:
        """Whether calls to a service can have faults."""
        return not self.services or service in self.services

    def chance(self, what: str, number: int) -> float:
        """A number in [0, 1) that depends only on the seed, `what` and `number`."""
        digest = hashlib.sha256(f"{self.seed}/{what}/{number}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64


def _parse(name: str, value: str) -> dict[str, Any]:
    if name == "seed":
        return {"seed": int(value)}
    if name == "service":
        services = tuple(value.split(","))
        if not set(services) <= set(SERVICES):
            raise ValueError(value)
        return {"services": services}
    if name not in _SHARES:
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
