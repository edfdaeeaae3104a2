"""Results that are kept, so that no later batch or workflow pays for the same call again.

A result is found by the function's or service's name, the version of its code (core.calls.versions) and a
hash of the arguments, which are not kept themselves. Errors are not kept, nulls are. Keeping is best effort:
what cannot be read is computed, what cannot be written is lost, and no row fails for it.

    {kind}#{name}#{0-f}  {version}#{sha256}   text: the result's JSON; the partition is the hash's first digit
    {kind}#{name}        day#{YYYY-MM-DD}     hits, misses, entries, bytes of a day, and its last version
"""

import hashlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from aws_lambda_powertools import Logger

from core import deadline
from core.calls.rates import read_option
from core.calls.versions import code_version
from core.catalog import NONE, PERIOD, CallOptions
from core.errors import is_transient
from core.settings import SettingError, setting
from core.table import MAX_BATCH_READS, MAX_BATCH_WRITES, add, get_items, put_items, query_items

Kind = Literal["function", "service"]

# A larger result would cost more to keep than most calls.
MAX_RESULT_BYTES = 16 * 1024

# What a key, its attributes and DynamoDB's own overhead add to a result's text, roughly.
_ITEM_BYTES = 250

_UNIT_SECONDS = {"minute": 60, "hour": 3600, "day": 24 * 3600}
_DAY_SECONDS = 24 * 3600

# So long a look at the kept results is good for, where other workers add to them.
FRESH_SECONDS = 0.5

_READERS = 4

# So long results are collected for one write: one each would take more time than some functions do.
_COLLECT_SECONDS = 0.25

# After so many batches in a row of which not all was written, no further one is.
_MOST_LOSSES = 3

# What `close` has at least, where the invocation's time is over.
_LEAST_CLOSE_SECONDS = 1.0

logger = Logger(child=True)


class Reuse:
    """The results of one function or service, during one invocation. For its threads.

    `hits`, `misses`: rows whose result was kept, and those that were computed. `lost`: results that are not
    kept, since they are too large, there is no room for them, or they could not be written.
    """

    def __init__(self, kind: Kind, name: str, version: str, seconds: int) -> None:
        self.hits = self.misses = self.lost = 0
        self._partition = f"{kind}#{name}"
        self._version = version
        self._seconds = seconds
        self._table = setting("REUSE_TABLE")
        self._kept = self._bytes = 0
        self._is_readable = self._is_writable = True
        self._losses = 0
        self._results: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, kind: Kind, name: str, options: CallOptions, path: Path) -> Self | None:
        """Where the function or service of a file says so; else None. Raises SettingError."""
        seconds = read_period(options.reuse)
        return cls(kind, name, code_version(path, read_option(options.version)), seconds) if seconds else None

    def load(self, digests: Sequence[str]) -> dict[str, str]:
        """The results that are kept, as JSON texts by the hash of their arguments."""
        parts = [digests[at : at + MAX_BATCH_READS] for at in range(0, len(digests), MAX_BATCH_READS)]
        if len(parts) <= 1:
            found = [self._load(part) for part in parts]
        else:
            with ThreadPoolExecutor(min(_READERS, len(parts)), thread_name_prefix="reuse") as pool:
                found = list(pool.map(self._load, parts))
        return {digest: text for part in found for digest, text in part.items()}

    @staticmethod
    def digest(text: str) -> str:
        """By which a result is found: the hash of its arguments' JSON."""
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @staticmethod
    def is_stale(looked_at: float) -> bool:
        """Whether other workers may have added results since then."""
        return time.monotonic() - looked_at >= FRESH_SECONDS

    def count(self, *, hits: int = 0, misses: int = 0) -> None:
        """Counts rows."""
        with self._lock:
            self.hits += hits
            self.misses += misses

    def save(self, digest: str, text: str) -> None:
        """Keeps a result, soon: a thread writes several at once."""
        with self._lock:
            if len(text.encode("utf-8")) > MAX_RESULT_BYTES:
                self.lost += 1
                return
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, daemon=True, name="reuse")
                self._writer.start()
        self._results.put((digest, text))

    def close(self) -> None:
        """Returns when all results are kept and counted, or half of the time that was left is over."""
        if self._writer:
            self._results.put(None)
            self._writer.join(max(_LEAST_CLOSE_SECONDS, deadline.seconds_left() / 2))
        amounts = {"hits": self.hits, "misses": self.misses, "entries": self._kept, "bytes": self._bytes}
        if not any(amounts.values()):
            return
        now = int(time.time())
        key = {"pk": self._partition, "sk": f"day#{_day(now)}"}
        try:
            add(self._table, key, amounts, now + self._seconds + _DAY_SECONDS, version=self._version)
        except Exception as error:
            if not is_transient(error):
                raise

    def _key(self, digest: str) -> dict[str, str]:
        return {"pk": f"{self._partition}#{digest[0]}", "sk": f"{self._version}#{digest}"}

    def _load(self, digests: Sequence[str]) -> dict[str, str]:
        if not self._is_readable:
            return {}
        try:
            items = get_items(self._table, [self._key(digest) for digest in digests])
        except Exception as error:
            if not is_transient(error):
                raise
            # The client has made several attempts. More of them would take the time in which rows are called.
            self._is_readable = False
            logger.warning("kept results are not read", extra={"error": type(error).__name__})
            return {}
        now = time.time()
        # DynamoDB deletes what has expired within days.
        return {item["sk"].rpartition("#")[2]: item["text"] for item in items if item["expires_at"] > now}

    def _write(self) -> None:
        """Writes what `save` queues, until `close`."""
        is_open = True
        while is_open:
            results, is_open = self._collect()
            if results:
                kept = self._put(results)
                with self._lock:
                    self.lost += len(results) - kept

    def _collect(self) -> tuple[dict[str, str], bool]:
        """The results of the next write, and whether there may be more."""
        results: dict[str, str] = {}
        result = self._results.get()
        ends_at = time.monotonic() + _COLLECT_SECONDS
        while result is not None:
            results[result[0]] = result[1]
            if len(results) == MAX_BATCH_WRITES:
                break
            try:
                result = self._results.get(timeout=max(0.0, ends_at - time.monotonic()))
            except queue.Empty:
                break
        return results, result is not None

    def _put(self, results: Mapping[str, str]) -> int:
        """How many of the results are kept now."""
        if not self._is_writable:
            return 0
        expires_at = int(time.time()) + self._seconds
        items = [
            {**self._key(digest), "text": text, "expires_at": expires_at} for digest, text in results.items()
        ]
        try:
            if not self._kept and not self._has_room():
                self._is_writable = False
                return 0
            kept = len(items) - put_items(self._table, items)
        except Exception as error:  # noqa: BLE001 - keeping a result is no reason to fail its row
            logger.warning("results are not kept", extra={"error": type(error).__name__})
            self._is_writable = False
            return 0
        # Where DynamoDB took only a part, all attempts at the rest took their time.
        self._losses = self._losses + 1 if kept < len(items) else 0
        self._is_writable = self._losses < _MOST_LOSSES
        self._kept += kept
        size = sum(_ITEM_BYTES + len(text.encode("utf-8")) for text in results.values())
        self._bytes += size * kept // len(items)
        return kept

    def _has_room(self) -> bool:
        """Whether the results that are kept and not expired are less than the bound for a function."""
        most = float(setting("REUSE_MEGABYTES")) * 1024 * 1024
        oldest = f"day#{_day(time.time() - self._seconds)}"
        days = query_items(self._partition, self._table)
        kept: int = sum(day.get("bytes", 0) for day in days if day["sk"] >= oldest)
        return kept < most


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def read_period(option: str) -> int:
    """Seconds of "7 days", "12 hours", "30 minutes"; 0 for "none". Raises SettingError."""
    text = read_option(option)
    if text == NONE:
        return 0
    period = PERIOD.fullmatch(text)
    if period is None or int(period[1]) == 0:
        raise SettingError(f'{option} is {text!r}, which is no period such as "7 days", and not "{NONE}"')
    return int(period[1]) * _UNIT_SECONDS[period[2]]
