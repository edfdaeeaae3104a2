"""One lock for each content of each object, by conditional writes: which run works on it, or finished it.

A lock is held by an owner (an execution) until its lease expires. Then, and not before, another owner may
take it; so may the owner's own resumption, which names the same run. Only the owner renews, completes or
releases it: an owner that lost its lease to another gets LockLost and changes nothing.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from core.errors import TaskError, TransientError
from core.table import Item, delete_if, expires_at, put_if, update_if
from ingest.landed_objects import Content

# Longer than anything the ingest machine does without renewing: a Task of 300 s, and the waits between tries.
LEASE_SECONDS = 900

Clock = Callable[[], float]


class LockLost(TaskError):
    """Another run holds the lock now, or none does; the message says which."""


@dataclass(frozen=True)
class Lock:
    """The state of a lock. `lease_until`: epoch seconds; `result`: what was recorded, None while held."""

    owner: str
    run_id: str
    lease_until: int
    result: dict[str, Any] | None

    @classmethod
    def from_item(cls, item: Item) -> "Lock":
        """The lock that an item of the table holds."""
        result = json.loads(item["result"]) if "result" in item else None
        return cls(item["lock_owner"], item.get("run_id", ""), item.get("lease_until", 0), result)

    @property
    def lease_end(self) -> str:
        """The end of the lease for people, as UTC."""
        return datetime.fromtimestamp(self.lease_until, UTC).isoformat()


def acquire(content: Content, owner: str, run_id: str, *, clock: Clock = time.time) -> Lock:
    """Takes the lock if it may be taken, and returns its state, whose `owner` may be another.

    It may be taken where no run holds it, where its lease expired, and where `owner` (a retry) or an earlier
    run of the same `run_id` (a resumption) holds it. A completed lock is never taken again.
    Raises TransientError.
    """
    now = int(clock())
    lock = Lock(owner, run_id, now + LEASE_SECONDS, None)
    existing = put_if(
        "attribute_not_exists(pk) OR (#state = :held AND "
        "(lease_until < :now OR lock_owner = :owner OR run_id = :run_id))",
        {
            **_key(content),
            "state": "held",
            "lock_owner": owner,
            "run_id": run_id,
            "lease_until": lock.lease_until,
        },
        {":held": "held", ":now": now, ":owner": owner, ":run_id": run_id},
    )
    if existing is None:
        return lock
    if not existing:
        raise TransientError(f"the lock on {content} was deleted at the same time")
    return Lock.from_item(existing)


def renew(content: Content, owner: str, *, clock: Clock = time.time) -> None:
    """Extends the lease, and counts the renewals. Raises LockLost where the lock is not this owner's."""
    existing = update_if(
        "lock_owner = :owner AND #state = :held",
        _key(content),
        "SET lease_until = :until ADD renewals :one",
        {":until": int(clock()) + LEASE_SECONDS, ":one": 1, ":owner": owner, ":held": "held"},
    )
    if existing is not None:
        raise _lost(existing, content)


def complete(content: Content, owner: str, result: dict[str, Any]) -> None:
    """Records permanently that the content is done, and the result. Raises LockLost. Safe to repeat."""
    existing = update_if(
        "lock_owner = :owner",
        _key(content),
        "SET #state = :done, #result = :result, expires_at = :expires",
        {
            ":done": "done",
            ":result": json.dumps(result, ensure_ascii=False),
            ":expires": expires_at(),
            ":owner": owner,
        },
    )
    if existing is not None:
        raise _lost(existing, content)


def release(content: Content, owner: str) -> bool:
    """Releases the lock, so that any run may take it. False where it is not this owner's."""
    existing = delete_if(
        "lock_owner = :owner AND #state = :held", _key(content), {":owner": owner, ":held": "held"}
    )
    return existing is None


def _key(content: Content) -> dict[str, str]:
    return {"pk": f"object#{content.bucket}/{content.key}", "sk": f"content#{content.name}"}


def _lost(existing: Item, content: Content) -> LockLost:
    if not existing:
        return LockLost(f"no run holds the lock on {content} any more; run it again")
    lock = Lock.from_item(existing)
    what = f"holds it until {lock.lease_end}" if lock.result is None else "completed it"
    return LockLost(f"the lock on {content} was lost: run {lock.owner} {what}")
