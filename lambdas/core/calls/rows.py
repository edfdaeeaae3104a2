"""The answers of the rows of a chunk.

Equal rows are called once, kept results are reused, and other calls wait for the limit. What was answered is
stored every few seconds, so that a retry of the chunk goes on where this attempt stopped.
"""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from core.calls.answers import StoredAnswers
from core.calls.options import find_permits, find_reuse
from core.calls.report import report
from core.catalog import FUNCTIONS_DIR, Signature
from core.errors import RateLimited, ThrottleError, TransientError, is_transient
from core.exact_json import dump_json
from core.patience import ATTEMPTS, Patience, persist
from core.remote import Arguments, ErrorText, call_row, call_rows

# What a worker that dies has not stored is called again. What is limited is mostly paid for as well; with
# other functions, a write each two seconds would cost a good part of what computing does.
STORE_SECONDS, STORE_SECONDS_UNLIMITED = 2.0, 10.0

# The most kept results that are looked for ahead of the next call.
MOST_AHEAD = 100

# How long a thread calls one row after the other before it looks at what else there is to do.
STRETCH_SECONDS = 0.005


def run_rows(
    signature: Signature,
    function: Callable[..., Any],
    rows: Sequence[Arguments],
    first_row: int,
    stored: StoredAnswers | None = None,
) -> list[str]:
    """Calls the function for all rows; returns a JSON text for each, in order.

    `first_row`: the number of the first row in its batch. `stored`: of earlier attempts, and for the next.
    Raises FunctionError, ArgumentError or ResultError naming the row (where on_error is "fail");
    TransientError and RateLimited where a retry may help.
    """
    chunk = _Chunk(signature, function, dict(enumerate(rows, first_row)), stored)
    texts = chunk.run()
    return [texts[number] for number in range(first_row, first_row + len(rows))]


class _Chunk:
    """The rows of a chunk by number, and what is known of them.

    `texts`: the answers so far. `pending`: rows that are to be called; `equals`: for such a row, those that
    get the same answer. `attempts`: how often a row's call failed. `failures`: for which the chunk stops.
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
        self._equal_rows = 0
        self._digests: dict[int, str] = {}
        self._attempts: Counter[int] = Counter()
        self._failures: list[Exception] = []
        name = signature.name
        self._reuse = find_reuse("function", name, signature, FUNCTIONS_DIR / f"{name}.py")
        self._permits = find_permits(signature, name)
        self._is_paced = self._permits is not None and self._permits.has_rate
        self._is_plain = not (signature.vectorized or self._permits or self._reuse)
        self._size = (signature.rows_per_call or len(rows)) if signature.vectorized else 1
        self._threads = 1
        self._stored_at = self._looked_at = time.monotonic()
        self._known_stored = 0
        self._storing = threading.Lock()

    def run(self) -> dict[int, str]:
        """The JSON text of each row."""
        try:
            self._plan()
            planned = self._signature.calls_for(len(self._pending))
            if self._pending:
                self._make_calls()
            failure = self._failure()
            if failure:
                self._store_all()
            if self._permits and not (failure and is_transient(failure)):
                # Fewer calls than planned, as another worker answered rows, or as one row failed the batch.
                self._permits.spare(planned - self._permits.calls - self._permits.throttles)
        finally:
            if self._permits:
                self._permits.settle()
            if self._reuse:
                self._reuse.close()
            report(self._signature.name, self._permits, self._reuse, equal_rows=self._equal_rows)
        if failure:
            raise failure
        return self._texts

    def _failure(self) -> Exception | None:
        """Why not all rows are answered. What a retry does not avoid counts more."""
        final = (error for error in self._failures if not is_transient(error))
        return next(final, self._failures[0] if self._failures else None)

    def _plan(self) -> None:
        """Finds the rows that have to be called, without those that are known already."""
        if self._stored:
            self._texts.update(self._stored.load())
            self._known_stored = len(self._texts)
        numbers = [number for number in self._rows if number not in self._texts]
        if self._signature.deduplicate or self._reuse:
            count = len(numbers)
            arguments = {number: dump_json(row) for number, row in self._rows.items()}
            numbers = self._unequal(numbers, arguments)
            if self._reuse:
                # So many were admitted to the limit's queue.
                admitted = self._signature.calls_for(len(numbers) if self._signature.deduplicate else count)
                self._digests = {number: self._reuse.digest(arguments[number]) for number in numbers}
                numbers = self._unknown(numbers)
                self._looked_at = time.monotonic()
                if self._permits:
                    self._permits.spare(admitted - self._signature.calls_for(len(numbers)))
        if self._reuse and self._is_paced:
            # Workers with the same rows begin at different places: each finds what the others have called.
            start = random.randrange(16**8)  # noqa: S311
            numbers.sort(key=lambda number: (int(self._digests[number][:8], 16) - start) % 16**8)
        self._pending.extend(numbers)

    def _unequal(self, numbers: Sequence[int], arguments: Mapping[int, str]) -> list[int]:
        """The first of the rows with the same arguments; the others get its answer, or one that is known."""
        first = {arguments[number]: number for number in self._texts}
        unequal: list[int] = []
        for number in numbers:
            same = first.setdefault(arguments[number], number)
            if same == number:
                unequal.append(number)
            elif same in self._texts:
                self._texts[number] = self._texts[same]
            else:
                self._equals.setdefault(same, []).append(number)
        self._equal_rows = len(numbers) - len(unequal)
        return unequal

    def _unknown(self, numbers: list[int]) -> list[int]:
        """The rows whose results are not kept; those of the others are known from now on."""
        assert self._reuse is not None
        kept = self._reuse.load([self._digests[number] for number in numbers])
        texts = {number: kept[self._digests[number]] for number in numbers if self._digests[number] in kept}
        self._know(texts)
        self._reuse.count(hits=len(texts))
        return [number for number in numbers if number not in texts]

    def _know(self, texts: Mapping[int, str]) -> None:
        self._texts.update(texts)
        if self._equals:
            for number, text in texts.items():
                self._texts.update(dict.fromkeys(self._equals.get(number, ()), text))

    def _make_calls(self) -> None:
        self._threads = min(self._signature.concurrency, -(-len(self._pending) // self._size))
        slots = self._permits.slots() if self._permits else None
        try:
            if self._permits and slots:
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
                if self._is_plain and not unit:
                    errors = self._call_stretch()
                else:
                    # Rows first: at the end of the chunk, no thread waits for a token that no row needs.
                    unit = unit or self._take(self._size)
                    if self._permits and unit:
                        self._permits.wait(1 + len(self._pending) // self._size, self._threads)
                    unit = self._fill(unit)
                    if not unit:
                        if self._permits:
                            self._permits.give_back()
                        return
                    errors = self._call(unit)
                if len(errors) < len(unit):
                    patience = Patience()
                if errors:
                    self._bear(errors, patience)
                unit = list(errors)
        except Exception as error:  # noqa: BLE001 - it is raised when all threads have ended
            self._failures.append(error)

    def _bear(self, errors: Mapping[int, TransientError], patience: Patience) -> None:
        """Pauses before rows are called again. Raises the error of one that was called often enough."""
        for number, error in errors.items():
            self._attempts[number] += not isinstance(error, ThrottleError)
            if self._attempts[number] == ATTEMPTS:
                raise error
        throttles = (error for error in errors.values() if isinstance(error, ThrottleError))
        patience.bear(next(throttles, next(iter(errors.values()))), is_paced=self._is_paced)

    def _fill(self, unit: list[int]) -> list[int]:
        """The rows of the next call: as many as fit, and none that another worker's call has answered."""
        rows = unit + self._take(self._size - len(unit))
        if not (self._reuse and self._is_paced and self._reuse.is_stale(self._looked_at)):
            return rows
        unit = []
        factor = 1
        while rows:
            unit += self._unknown(rows)
            # The more is known, the further ahead is the other worker.
            factor *= 2
            rows = self._take(min(MOST_AHEAD, factor * (self._size - len(unit))))
        self._pending.extendleft(reversed(unit[self._size :]))
        return unit[: self._size]

    def _take(self, count: int) -> list[int]:
        rows: list[int] = []
        while len(rows) < count:
            try:
                rows.append(self._pending.popleft())
            except IndexError:
                break
        return rows

    def _call(self, unit: list[int]) -> dict[int, TransientError]:
        """Calls the function for these rows. Returns the errors of rows that may be called again.

        Raises what fails the chunk.
        """
        began = time.monotonic()
        texts, errors = call_rows(
            self._signature, self._function, {number: self._rows[number] for number in unit}
        )
        self._know(texts)
        if self._permits:
            if any(isinstance(error, ThrottleError) for error in errors.values()):
                self._permits.throttled()
            else:
                self._permits.called(time.monotonic() - began)
        if self._reuse:
            self._reuse.count(misses=len(texts))
            for number, text in texts.items():
                if not isinstance(text, ErrorText):
                    self._reuse.save(self._digests[number], text)
        transient = {number: error for number, error in errors.items() if isinstance(error, TransientError)}
        for number, error in errors.items():
            if number not in transient:
                raise error
        self._store_sometimes()
        return transient

    def _call_stretch(self) -> dict[int, TransientError]:
        """Calls one row after the other for a few milliseconds: quick functions have many rows in that time.

        For functions without a limit and reuse. Returns and raises as `_call` does.
        """
        ends_at = time.monotonic() + STRETCH_SECONDS
        while time.monotonic() < ends_at and self._pending:
            try:
                number = self._pending.popleft()
            except IndexError:  # another thread was quicker
                break
            answer = call_row(self._signature, self._function, self._rows[number], number)
            if isinstance(answer, TransientError):
                return {number: answer}
            if not isinstance(answer, str):
                raise answer
            self._texts[number] = answer
            if number in self._equals:
                self._know({number: answer})
        self._store_sometimes()
        return {}

    def _store_sometimes(self) -> None:
        now = time.monotonic()
        seconds = STORE_SECONDS if self._permits else STORE_SECONDS_UNLIMITED
        if self._stored is None or now - self._stored_at < seconds or not self._pending:
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

    def _store_all(self) -> None:
        """Stores the answers for the next attempt. Why this one failed is more than that this fails too."""
        if self._stored and len(self._texts) > self._known_stored:
            try:
                persist(self._store)
            except Exception as error:
                if not is_transient(error):
                    raise

    def _store(self) -> None:
        texts = dict(self._texts)
        if self._stored:
            self._stored.save(texts)
        self._known_stored = len(texts)
