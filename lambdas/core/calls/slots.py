"""The most calls of a limited service that run at the same time, in all workers of the stack.

A worker holds slots while it makes calls, and says again every few seconds that it lives: the slots of one
that died are free after HOLD_SECONDS.

    rate#{limit}  slots     used: slots that are held; holders: {worker: {"slots", "until"}}, in epoch seconds
"""

import threading
import time
import uuid
from typing import Any

from core.errors import is_transient
from core.table import Item, change_if, expires_at, put_if, update_if

HOLD_SECONDS = 20
RENEW_SECONDS = 5.0


class Slots:
    """The slots of one invocation. `partition`: the limit's in the table. `most`: of all workers together."""

    def __init__(self, partition: str, most: int) -> None:
        self._key = {"pk": partition, "sk": "slots"}
        self._most = most
        # A letter first, as it is part of an expression's names.
        self._holder = f"w{uuid.uuid4().hex}"
        self._released = threading.Event()
        self.held = 0

    def acquire(self, wanted: int) -> int:
        """Takes at least one slot and at most `wanted`; 0 where none is free."""
        count = min(wanted, self._most)
        while count > 0:
            written, item = self._take(count)
            if written or self._holder in item.get("holders", {}):
                # Where an answer was lost, the repeated call finds what the first one wrote.
                self.held = item["holders"][self._holder]["slots"]
                threading.Thread(target=self._renew, daemon=True, name="slots").start()
                break
            if not item:
                put_if("attribute_not_exists(pk)", {**self._key, "used": 0, "holders": {}})
            elif not self._drop_dead(item):
                count = min(wanted, self._most - item["used"])
        return self.held

    def release(self) -> None:
        """Gives the slots back. Where that fails, they are free when the hold ends."""
        self._released.set()
        if not self.held:
            return
        held, self.held = self.held, 0
        try:
            update_if(
                f"attribute_exists(holders.#{self._holder})",
                self._key,
                f"SET used = used - :slots REMOVE holders.#{self._holder}",
                {":slots": held},
            )
        except Exception as error:
            if not is_transient(error):
                raise

    def _take(self, count: int) -> tuple[bool, Item]:
        holder = {"slots": count, "until": _until()}
        return change_if(
            f"used <= :most AND attribute_not_exists(holders.#{self._holder})",
            self._key,
            f"SET used = used + :slots, holders.#{self._holder} = :holder, expires_at = :expires_at",
            {":expires_at": expires_at(), ":most": self._most - count, ":slots": count, ":holder": holder},
        )

    def _drop_dead(self, item: Item) -> bool:
        """Frees the slots of workers that have not said for a while that they live.

        Whether there were any.
        """
        dead = {name: each for name, each in item["holders"].items() if each["until"] < time.time()}
        for name, holder in dead.items():
            update_if(
                f"holders.#{name}.#until = :until",
                self._key,
                f"SET used = used - :slots REMOVE holders.#{name}",
                {":until": holder["until"], ":slots": holder["slots"]},
            )
        return bool(dead)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            values: dict[str, Any] = {":until": _until()}
            here = f"holders.#{self._holder}"
            try:
                update_if(f"attribute_exists({here})", self._key, f"SET {here}.#until = :until", values)
            except Exception:  # noqa: BLE001, S112 - the next one may succeed; the hold lasts for several
                continue


def _until() -> int:
    return int(time.time()) + HOLD_SECONDS
