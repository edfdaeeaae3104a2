"""The answers of the rows of a chunk: equal rows are called once, kept results reused, and other calls
wait for the limit.

What was answered is stored every few seconds, so that a retry of the chunk goes on where this attempt
stopped.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from core.calls.answers import StoredAnswers
from core.calls.permits import Permits
from core.calls.rates import Limit
from core.calls.report import report
from core.calls.reuse import FRESH_SECONDS, Reuse, digest
from core.catalog import FUNCTIONS_DIR, Signature
from core.errors import RateLimited, ThrottleError, TransientError, is_transient
from core.exact_json import dump_json
from core.patience import Patience, persist
from core.remote import Answer, Arguments, call_rows

# What a worker that dies has not stored is called again.
STORE_SECONDS = 2.0


def run_rows(
    signature: Signature,
    function: Callable[..., Any],
    rows: Sequence[Arguments],
    first_row: int,
    stored: StoredAnswers | None = None,
) -> list[str]:
    """Calls the function for all rows; returns a JSON text for each, in order.

    `first_row`: the number of the first row in its batch. `stored`: of earlier attempts, and for
    the next one. Raises FunctionError, ArgumentError or ResultError naming the row (where
    on_error is "fail"); TransientError and RateLimited where a retry may help.
    """
    chunk = _Chunk(signature, function, dict(enumerate(rows, first_row)), stored)
    texts = chunk.run()
    return [texts[number] for number in range(first_row, first_row + len(rows))]


class _Chunk:
    """The rows of a chunk by number, and what is known of them.

    `pending`: rows that are to be called; `equals`: of such a row, those that get the same answer.
    """

    def __init__(
        self,
        signature: Signature,
        function: Callable[..., Any],
        rows: Mapping[int, Arguments],
        stored: StoredAnswers | None,
    ) -> None:
        self._signature = signature
        self._function = function
        self._rows = rows
        self._stored = stored
        self._texts: dict[int, str] = {}
        self._pending: deque[int] = deque()
        self._equals: dict[int, list[int]] = {}
        self._digests: dict[int, str] = {}
        self._failures: list[Exception] = []
        self._stored_at = self._looked_at = time.monotonic()
        self._known_stored = 0
        self._storing = threading.Lock()
        name = signature.name
        self._reuse = Reuse.of("function", name, signature, FUNCTIONS_DIR / f"{name}.py")
        self._permits = Permits(Limit.of(signature, name))
        self._threads = 1
        self._size = (signature.rows_per_call or len(rows)) if signature.vectorized else 1

    def run(self) -> dict[int, str]:
        """The JSON text of each row."""
        try:
            self._plan()
            if self._pending:
                self._make_calls()
        finally:
            self._permits.settle()
            if self._reuse:
                self._reuse.close()
            equal_rows = sum(map(len, self._equals.values()))
            report(self._signature.name, self._permits, self._reuse, equal_rows=equal_rows)
        if self._failures:
            if self._stored and len(self._texts) > self._known_stored:
                persist(self._store)
            # What a retry does not avoid counts more.
            raise next((error for error in self._failures if not is_transient(error)), self._failures[0])
        return self._texts

    def _plan(self) -> None:
        """Finds the rows that have to be called, without those that are known already."""
        if self._stored:
            self._texts.update(self._stored.load())
            self._known_stored = len(self._texts)
        numbers = [number for number in self._rows if number not in self._texts]
        if self._signature.deduplicate or self._reuse:
            arguments = {number: dump_json(self._rows[number]) for number in numbers}
            if self._signature.deduplicate:
                numbers = self._unequal(arguments)
            if self._reuse:
                self._digests = {number: digest(arguments[number]) for number in numbers}
                admitted = self._signature.calls_for(len(numbers))
                numbers = self._unknown(numbers)
                self._permits.spare(admitted - self._signature.calls_for(len(numbers)))
                self._looked_at = time.monotonic()
        if self._reuse and self._permits.has_rate:
            # Workers with the same rows begin at different places: each finds what the others have called.
            start = random.randrange(16**8)  # noqa: S311
            numbers.sort(key=lambda number: (int(self._digests[number][:8], 16) - start) % 16**8)
        self._pending.extend(numbers)

    def _unequal(self, arguments: Mapping[int, str]) -> list[int]:
        first: dict[str, int] = {}
        for number, text in arguments.items():
            same = first.setdefault(text, number)
            if same != number:
                self._equals.setdefault(same, []).append(number)
        return list(first.values())

    def _unknown(self, numbers: list[int]) -> list[int]:
        """The rows whose results are not kept; those of the others are known from now on."""
        assert self._reuse is not None
        kept = self._reuse.load(list({self._digests[number]: None for number in numbers}))
        for number in numbers:
            text = kept.get(self._digests[number])
            if text is not None:
                self._answer(number, text)
                self._reuse.hits += 1
        return [number for number in numbers if self._digests[number] not in kept]

    def _make_calls(self) -> None:
        self._threads = min(self._signature.concurrency, -(-len(self._pending) // self._size))
        slots = self._permits.slots()
        try:
            if slots:
                self._threads = self._permits.wait_for(partial(slots.acquire, self._threads))
            if self._threads == 1:
                self._work()
            else:
                with ThreadPoolExecutor(self._threads, thread_name_prefix=self._signature.name) as pool:
                    threads = [pool.submit(self._work) for _ in range(self._threads)]
                for thread in threads:
                    thread.result()
        except RateLimited as error:
            self._failures.append(error)
        finally:
            if slots:
                slots.release()

    def _work(self) -> None:
        """One thread's calls, until no row is left or a call has failed the chunk."""
        unit: list[int] = []
        patience = Patience()
        try:
            while (unit or self._pending) and not self._failures:
                leased_us = self._permits.wait(1 + len(self._pending) // self._size, self._threads)
                unit = self._fill(unit)
                if not unit:
                    self._permits.give_back()
                    return
                error = self._call(unit, leased_us)
                if error:
                    patience.bear(error, is_paced=self._permits.has_rate)
                else:
                    patience = Patience()
                unit = [number for number in unit if number not in self._texts]
        except Exception as error:  # noqa: BLE001 - it is raised when all threads have ended
            self._failures.append(error)

    def _fill(self, unit: list[int]) -> list[int]:
        """The rows of the next call: as many as fit, and none that another worker's call has answered."""
        looked_at: set[int] = set()
        while True:
            while len(unit) < self._size:
                try:
                    unit.append(self._pending.popleft())
                except IndexError:
                    break
            new = [number for number in unit if number not in looked_at]
            if not (new and self._reuse and self._permits.has_rate):
                return unit
            if time.monotonic() - self._looked_at < FRESH_SECONDS:
                return unit
            looked_at.update(new)
            unknown = set(self._unknown(new))
            unit = [number for number in unit if number not in new or number in unknown]

    def _call(self, unit: list[int], leased_us: int) -> TransientError | None:
        """Calls the function for these rows; one row's error, where some must be called again."""
        began = time.monotonic()
        answers = call_rows(self._signature, self._function, {number: self._rows[number] for number in unit})
        failed: TransientError | None = None
        for number, answer in answers.items():
            if isinstance(answer, Answer):
                self._answer(number, answer.text)
                if self._reuse:
                    self._reuse.misses += 1
                    if not answer.is_error:
                        self._reuse.save(self._digests[number], answer.text)
            elif failed is None or isinstance(answer, ThrottleError):
                failed = answer
        if isinstance(failed, ThrottleError):
            self._permits.throttled(leased_us)
        else:
            self._permits.called(time.monotonic() - began)
        self._store_sometimes()
        return failed

    def _answer(self, number: int, text: str) -> None:
        self._texts[number] = text
        for equal in self._equals.get(number, ()):
            self._texts[equal] = text

    def _store_sometimes(self) -> None:
        now = time.monotonic()
        if self._stored is None or now - self._stored_at < STORE_SECONDS or not self._pending:
            return
        if self._storing.acquire(blocking=False):
            try:
                self._store()
            except Exception as error:
                # The next record has these answers too.
                if not is_transient(error):
                    raise
            finally:
                # A large chunk takes longer to record: not more than a tenth of the time is spent on it.
                taken = time.monotonic() - now
                self._stored_at = time.monotonic() + 9 * taken
                self._storing.release()

    def _store(self) -> None:
        texts = dict(self._texts)
        if self._stored:
            self._stored.save(texts)
        self._known_stored = len(texts)
