"""The results that a deployed stack keeps to be reused: how many, how much they spared, and their end."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from core.catalog import NONE
from stepflake.callers import Caller, deployed_callers, read_callers
from stepflake.errors import UserError
from stepflake.stack import Stack
from stepflake.tables import Item, Table

# The partitions of a function's or a service's results (core.calls.reuse).
_DIGITS = "0123456789abcdef"
_KINDS = ("function", "service")
_DAY = "day#"

# The parts in which the whole table is read, and how many are read and deleted at the same time.
_SEGMENTS = 16
_THREADS = 8


@dataclass(frozen=True)
class Kept:
    """What is kept of a function's or a service's results.

    `entries`, `size` (bytes), `hits`, `misses`: of the days in the reuse period. `version`: of the code that
    called last, "" where none has.
    """

    caller: Caller
    entries: int
    size: int
    hits: int
    misses: int
    version: str

    @property
    def hit_share(self) -> float | None:
        """The hits of all rows and documents that were looked up; None where none was."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else None

    def as_json(self) -> dict[str, Any]:
        """With the period in seconds, and what the words of the decorator say of it."""
        share = self.hit_share
        return {
            "kind": self.caller.kind,
            "name": self.caller.name,
            "reuse": self.caller.options.reuse,
            "reuse_seconds": self.caller.reuse_seconds,
            "entries": self.entries,
            "bytes": self.size,
            "hits": self.hits,
            "misses": self.misses,
            "hit_share": None if share is None else round(share, 4),
            "version": self.version or None,
        }


def list_kept(stack: Stack) -> list[Kept]:
    """For each function and service of this project whose results are reused. Raises UserError."""
    callers = [caller for caller in deployed_callers(stack) if caller.reuse_seconds]
    table = _table(stack)
    return [_kept(table, caller) for caller in callers]


def bound_bytes(stack: Stack) -> int:
    """The most that a function or a service may keep."""
    return int(float(stack.parameters["ReuseMegabytes"]) * 1024 * 1024)


def check_name(stack: Stack, name: str) -> None:
    """Raises UserError where there is no function or service of this name, and nothing is kept of one."""
    callers = read_callers()
    if any(caller.name == name for caller in callers):
        return
    if not any(True for kind in _KINDS for _ in _table(stack).query(f"{kind}#{name}")):
        names = {caller.name for caller in callers if caller.options.reuse != NONE}
        reusing = ", ".join(sorted(names)) or "none"
        raise UserError(f"There is no function or service {name!r}; those that reuse results: {reusing}")


def clear(stack: Stack, name: str | None, progress: Callable[[int], None]) -> dict[str, int]:
    """Deletes the results of functions and services of this name, or all; how many of each.

    `progress`: gets how many are deleted so far. What Lambdas keep meanwhile may stay. After an error some
    are deleted, and another call goes on. Raises UserError.
    """
    table = _table(stack)
    days: list[Item] = []
    parts: list[Iterator[Item]]
    if name is None:
        attributes = ("pk", "sk", "entries", "bytes")
        parts = [table.scan(attributes, segment, _SEGMENTS) for segment in range(_SEGMENTS)]
    else:
        days = [item for kind in _KINDS for item in table.query(f"{kind}#{name}")]
        partitions = [f"{kind}#{name}#{digit}" for kind in _KINDS for digit in _DIGITS]
        parts = [table.query(partition, ("pk", "sk")) for partition in partitions]
    deleted: Counter[str] = Counter()
    _delete(table, parts, days, deleted, progress)
    for day in days:
        _discount(table, day)
    return dict(sorted(deleted.items()))


def _delete(
    table: Table,
    parts: list[Iterator[Item]],
    days: list[Item],
    deleted: Counter[str],
    progress: Callable[[int], None],
) -> None:
    """Deletes the results of all parts, counted in `deleted`, and adds the items of days to `days`."""
    stopped = threading.Event()
    lock = threading.Lock()

    def keys(part: Iterator[Item]) -> Iterator[dict[str, str]]:
        for item in part:
            if item["sk"].startswith(_DAY):
                days.append(item)
            else:
                yield {"pk": item["pk"], "sk": item["sk"]}

    def work(part: Iterator[Item]) -> None:
        for batch in table.delete(keys(part)):
            with lock:
                deleted.update(key["pk"].rpartition("#")[0].replace("#", " ") for key in batch)
            if stopped.is_set():
                return

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="clear") as pool:
        waiting = {pool.submit(work, part) for part in parts}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
                with lock:
                    progress(deleted.total())
        finally:
            # After an error or Ctrl-C, threads end with the batch that they are at.
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _discount(table: Table, day: Item) -> None:
    """Takes what was deleted out of a day's numbers; what Lambdas have added meanwhile stays in them."""
    entries, size = day.get("entries", 0), day.get("bytes", 0)
    table.update_if(
        # Where it does not hold, another call of this has done it.
        "#entries >= :entries AND #bytes >= :bytes",
        {"pk": day["pk"], "sk": day["sk"]},
        "ADD #entries :less_entries, #bytes :less_bytes",
        {":entries": entries, ":bytes": size, ":less_entries": -entries, ":less_bytes": -size},
    )


def _kept(table: Table, caller: Caller) -> Kept:
    oldest = datetime.fromtimestamp(time.time() - caller.reuse_seconds, UTC).date().isoformat()
    found = [day for day in table.query(f"{caller.kind}#{caller.name}") if day["sk"] >= f"{_DAY}{oldest}"]
    total = Counter[str]()
    for day in found:
        total.update({number: day.get(number, 0) for number in ("entries", "bytes", "hits", "misses")})
    version = found[-1].get("version", "") if found else ""
    return Kept(caller, total["entries"], total["bytes"], total["hits"], total["misses"], version)


def _table(stack: Stack) -> Table:
    return Table(stack.client("dynamodb"), stack.output("ReuseTable"))
