"""The limits of what a deployed stack calls: as they are declared, as they were found, and what waits."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.calls.rates import SECOND_US, Bucket, Limit, now_us
from core.stored import read_stored
from stepflake.callers import Caller, deployed_callers
from stepflake.errors import UserError
from stepflake.stack import Stack
from stepflake.tables import Table, TableError

# How often a write is repeated that a worker's write made fail.
_ATTEMPTS = 20


@dataclass(frozen=True)
class LimitState:
    """A limit. `shared_by`: what declares it, such as `function sentiment`.

    `bucket`: its state in the table, None where no call was made. `slots`: calls that run now.
    """

    limit: Limit
    shared_by: list[str]
    bucket: Bucket | None
    slots: int

    @property
    def found(self) -> float | None:
        """Calls a second at the rate found; None without a rate, and where no call was made."""
        if self.bucket is None or self.limit.per_second is None:
            return None
        # The first call after a limit has changed makes its bucket new.
        is_changed = self.bucket.declared_us != self.limit.interval_us
        is_declared = self.bucket.interval_us == self.bucket.declared_us
        return self.limit.per_second if is_changed or is_declared else self.bucket.per_second

    @property
    def queued_seconds(self) -> float:
        """Until the calls that were admitted have been made."""
        return max(0, self.bucket.clear_us - now_us()) / SECOND_US if self.bucket else 0.0

    @property
    def queued_calls(self) -> int:
        """The calls that were admitted and not made yet."""
        each = self.bucket.admission_us if self.bucket else 0
        return round(self.queued_seconds * SECOND_US / each) if each else 0

    @property
    def mean_wait_seconds(self) -> float | None:
        """How long a call waited; None where none was made."""
        return self.bucket.waited_ms / 1000 / self.bucket.calls if self.bucket and self.bucket.calls else None

    def as_json(self) -> dict[str, Any]:
        """Rates are calls a second."""
        bucket, wait = self.bucket or Bucket(0, 0), self.mean_wait_seconds
        return {
            "limit": self.limit.name,
            "shared_by": self.shared_by,
            "declared_rate": self.limit.per_second,
            "found_rate": self.found,
            "max_concurrency": self.limit.max_concurrency,
            "slots": self.slots,
            "queued_calls": self.queued_calls,
            "queued_seconds": round(self.queued_seconds, 3),
            "calls": bucket.calls,
            "throttles": bucket.throttles,
            "refused": bucket.refused,
            "mean_wait_seconds": None if wait is None else round(wait, 3),
            "is_used": self.bucket is not None,
        }


def list_limits(stack: Stack) -> list[LimitState]:
    """Every limit that a function or service of this project declares, by name. Raises UserError."""
    table = _table(stack)
    return [_state(table, sharers) for _, sharers in sorted(_sharers(stack).items())]


def reset(stack: Stack, name: str) -> bool:
    """Sets the rate found back to the declared one; whether it was lower. Raises UserError."""
    known = sorted(_sharers(stack))
    if name not in known:
        raise UserError(f"There is no limit {name!r}; there are: {', '.join(known) or 'none'}")
    table = _table(stack)
    for _ in range(_ATTEMPTS):
        bucket = _bucket(table, name)
        if bucket is None or bucket.interval_us == bucket.declared_us:
            return False
        now = now_us()
        # What is queued takes less time by as much.
        queued = max(0, bucket.clear_us - now) * bucket.declared_us // bucket.admission_us
        values = {
            ":found": bucket.interval_us,
            ":declared": bucket.declared_us,
            ":queued_until": bucket.clear_us,
            ":now": now,
            ":clear": now + queued,
            ":none": 0,
        }
        written = table.update_if(
            "interval_us = :found AND declared_us = :declared AND clear_us = :queued_until",
            {"pk": f"rate#{name}", "sk": "bucket"},
            "SET interval_us = :declared, raised_us = :now, cut_us = :none, clear_us = :clear",
            values,
        )
        if written:
            return True
    raise TableError(f"The limit {name} is written too often just now; try again")


def _table(stack: Stack) -> Table:
    return Table(stack.client("dynamodb"), stack.output("Table"))


def _sharers(stack: Stack) -> dict[str, list[Caller]]:
    """Who declares each limit that the stack has."""
    sharers: dict[str, list[Caller]] = {}
    for caller in deployed_callers(stack):
        if caller.limit:
            sharers.setdefault(caller.limit.name, []).append(caller)
    return sharers


def _state(table: Table, sharers: list[Caller]) -> LimitState:
    # `stepflake lint` sees to it that all declare the same.
    limit = sharers[0].limit
    assert limit
    slots = 0
    if limit.max_concurrency is not None:
        holders: Mapping[str, Any] = (table.get(f"rate#{limit.name}", "slots") or {}).get("holders", {})
        # Those of workers that died are free: the next one who needs them takes them.
        slots = sum(holder["slots"] for holder in holders.values() if holder["until"] >= time.time())
    return LimitState(limit, [str(caller) for caller in sharers], _bucket(table, limit.name), slots)


def _bucket(table: Table, name: str) -> Bucket | None:
    item = table.get(f"rate#{name}", "bucket")
    return read_stored(Bucket, item) if item else None
