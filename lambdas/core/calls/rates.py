"""Rate limits of called services, shared by every batch, query and workflow of the stack.

A limit is a token bucket in the table, and each call costs a token. Tokens fall due one after the other, at
the rate that was found. A worker takes a lease of several at once: one write moves `next_us` on by as many
intervals, and the calls are made when their tokens fall due.

A throttle of the called service cuts the rate, and each second without one raises it again, up to the rate
that was declared (additive increase, multiplicative decrease): a quota that is smaller than declared, or
shared with others, is found.

A POST is admitted if its calls, behind all that were admitted before, fit into the time that a batch has.

    rate#{limit}  bucket               the bucket (Bucket), in microseconds of the epoch
    rate#{limit}  batch#{execution}    this batch is admitted, so that a repeated POST is not counted twice
"""

import os
import time
from dataclasses import dataclass, replace
from typing import Any, Self

from core.catalog import NONE, RATE, VARIABLE, CallOptions
from core.settings import SettingError
from core.stored import read_stored
from core.table import change_if, delete_if, expires_at, get_item, put_if

SECOND_US = 1_000_000  # in microseconds, as all times here

_UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3600}

# Tokens that were not taken in time are kept for so long; then they are lost. Called services allow as much.
BURST_US = SECOND_US // 2

# Tokens are taken at most so long before they fall due: these do not slow down when the rate is cut.
HORIZON_US = 2 * SECOND_US
# A lease has the tokens of at most this long, so that a worker that dies loses few.
LEASE_US = SECOND_US // 2

# A throttle multiplies the rate by CUT; each second without one adds RAISE of the rate that was too high.
CUT, RAISE = 0.8, 0.04
# Only time in which calls are made raises the rate: otherwise it would be found anew after each pause.
MOST_RAISED_US = 2 * SECOND_US
# Fewer throttles, or a smaller share of the calls since the last cut, have other causes than the rate.
FEWEST_THROTTLES, THROTTLED_SHARE = 3, 0.1
# The lowest rate, as a part of the declared one.
LOWEST = 0.01

# A batch may wait so long for its calls. Snowflake gives it up after 600 s, and the rate found may still
# fall.
# https://docs.snowflake.com/en/sql-reference/external-functions-implementation
ADMITTED_SECONDS = 540
# Batches that run at the same time share the rate, and those that come later delay the earlier ones: a batch
# is admitted only if all that wait take less.
QUEUED_SECONDS = 400
BATCH_SECONDS = 600

# How often a write is repeated that another worker's write made fail.
_ATTEMPTS = 20

# The marker of an admitted batch is kept longer than Snowflake repeats its POST.
_MARKER_SECONDS = 24 * 3600

REMEDY = (
    "let fewer queries run at once, lower MAX_BATCH_ROWS (max_batch_rows of @remote_function), or get a "
    "higher quota of the called service, and raise rate_limit to it"
)


class Overloaded(Exception):
    """More calls are queued than can be made in a batch's time; trying again later helps."""


class TooManyCalls(Exception):
    """A batch needs more calls than the limit allows in its time, whatever else runs."""


@dataclass(frozen=True)
class Limit:
    """A limit as it is declared. `per_second`: calls, None for no rate."""

    name: str
    per_second: float | None
    max_concurrency: int | None

    @classmethod
    def of(cls, options: CallOptions, name: str) -> Self | None:
        """The limit of a function or a service of this name; None without one. Raises SettingError."""
        rate = read_rate(options.rate_limit)
        if rate is None and options.max_concurrency is None:
            return None
        return cls(options.calls or name, rate, options.max_concurrency)

    @property
    def key(self) -> dict[str, str]:
        """Of its bucket in the table."""
        return {"pk": f"rate#{self.name}", "sk": "bucket"}

    @property
    def interval_us(self) -> int:
        """Between two calls at the declared rate; 0 without one."""
        return round(SECOND_US / self.per_second) if self.per_second else 0


@dataclass(frozen=True)
class Bucket:
    """The state of a limit. All times are in microseconds, `call_ms` and `waited_ms` in milliseconds.

    `interval_us`: between calls at the rate found. `declared_us`: at the declared rate. `next_us`: when the
    next token falls due. `clear_us`: when all admitted calls will have been made. `throttled_us`,
    `raised_us`: the last cut and the last raise. `cut_us`, `cut_calls`, `cut_throttles`: the interval and the
    totals before the last cut. `call_ms`: how long a call takes. `calls`, `throttles`, `refused` (POSTs),
    `waited_ms`: totals.
    """

    interval_us: int
    declared_us: int
    max_concurrency: int = 0
    next_us: int = 0
    clear_us: int = 0
    throttled_us: int = 0
    raised_us: int = 0
    cut_us: int = 0
    cut_calls: int = 0
    cut_throttles: int = 0
    call_ms: int = 0
    calls: int = 0
    throttles: int = 0
    refused: int = 0
    waited_ms: int = 0

    @property
    def per_second(self) -> float:
        """Calls a second at the rate found; 0 without a rate."""
        return SECOND_US / self.interval_us if self.interval_us else 0.0

    @property
    def admission_us(self) -> int:
        """What an admitted call adds to the queue: the interval, or what max_concurrency makes of it.

        A rate that was found is between the service's quota and a cut more.
        """
        is_found = self.interval_us > self.declared_us
        interval = round(self.interval_us / CUT) if is_found else self.interval_us
        busy = self.call_ms * 1000 // self.max_concurrency if self.max_concurrency else 0
        return max(interval, busy)

    def __str__(self) -> str:
        """As messages name it: `10 calls a second`."""
        if not self.interval_us:
            return f"{self.max_concurrency} calls at once"
        found, declared = f"{self.per_second:.3g}", f"{SECOND_US / self.declared_us:.3g}"
        return f"{found} calls a second" + ("" if found == declared else f" (declared: {declared})")


def read_option(text: str) -> str:
    """An option's value: what is written there, or the environment's for "${NAME}". Raises SettingError."""
    variable = VARIABLE.fullmatch(text)
    if variable is None:
        return text
    if variable[1] not in os.environ:
        raise SettingError(f"the environment variable {variable[1]} is not set; template.yaml sets it")
    return os.environ[variable[1]]


def read_rate(option: str) -> float | None:
    """Calls a second of "10/second", "600/minute", "36000/hour"; None for "none". Raises SettingError."""
    text = read_option(option)
    if text == NONE:
        return None
    rate = RATE.fullmatch(text)
    if rate is None or float(rate[1]) <= 0:
        raise SettingError(f'{option} is {text!r}, which is no rate such as "10/second", and not "{NONE}"')
    return float(rate[1]) / _UNIT_SECONDS[rate[2]]


class TokenBucket:
    """The bucket of a limit, with what this worker knows of its state. Not thread-safe."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.state = Bucket(limit.interval_us, limit.interval_us, limit.max_concurrency or 0)
        # Told to the table with the next write.
        self._throttles = self._waited_ms = 0

    def lease(self, most: int, within_us: int) -> list[int]:
        """When up to `most` tokens fall due, in order; none where those within that time are taken.

        Raises what DynamoDB answers.
        """
        horizon_us = min(HORIZON_US, within_us)
        for _ in range(_ATTEMPTS):
            now = now_us()
            interval, bucket = self._raised(now), self.state
            # Throttles of the last seconds postpone the next raise.
            is_raised = interval != bucket.interval_us or self._throttles
            count = max(1, min(most, LEASE_US // interval))
            floor, span = now - BURST_US, count * interval
            values = {
                ":floor": floor,
                ":new": interval,
                ":raised": now if is_raised else bucket.raised_us,
                ":longer": self._longer(now, interval),
            }
            sets = "interval_us = :new, raised_us = :raised, clear_us = clear_us + :longer"
            if bucket.next_us < floor:
                # Tokens that were not taken are lost, so this worker's are the next.
                values |= {":next": floor + span}
                written = self._write("next_us < :floor", f"next_us = :next, {sets}", values, count)
            else:
                values |= {":span": span, ":horizon": now + horizon_us}
                in_reach = "next_us BETWEEN :floor AND :horizon"
                written = self._write(in_reach, f"next_us = next_us + :span, {sets}", values, count)
            if written:
                due = self.state.next_us - count * interval
                return [due + number * interval for number in range(count)]
            if self.state.next_us > now + horizon_us:
                return []
        return []

    def cut(self, leased_us: int) -> None:
        """Lowers the rate after a call's throttle, once for all calls whose tokens were leased before.

        Tokens that were leased before the last cut fall due at the rate before it, for HORIZON_US at most:
        their throttles say nothing of the rate since.
        """
        self._throttles += 1
        if not self.limit.per_second:
            return
        for _ in range(_ATTEMPTS):
            bucket, now = self.state, now_us()
            if bucket.throttled_us >= leased_us or not self._is_throttled_often():
                return
            lower = min(round(bucket.interval_us / CUT), round(self.limit.interval_us / LOWEST))
            values = {
                ":lower": lower,
                ":cut": bucket.interval_us,
                ":now": now,
                ":longer": self._longer(now, lower),
                ":calls": bucket.calls,
                ":all": bucket.throttles + self._throttles,
            }
            sets = (
                "interval_us = :lower, cut_us = :cut, throttled_us = :now, clear_us = clear_us + :longer, "
                "cut_calls = :calls, cut_throttles = :all"
            )
            if self._write("throttled_us < :since", sets, {**values, ":since": leased_us}, 0):
                return

    def _is_throttled_often(self) -> bool:
        """Whether the throttles since the last cut are too many to have other causes than the rate."""
        bucket = self.state
        throttles = bucket.throttles + self._throttles - bucket.cut_throttles
        calls = bucket.calls - bucket.cut_calls
        return throttles >= max(FEWEST_THROTTLES, THROTTLED_SHARE * calls)

    def waited(self, seconds: float) -> None:
        """Counts what the calls of this worker waited."""
        self._waited_ms += round(1000 * seconds)

    def settle(self, call_seconds: float | None) -> None:
        """Tells the table what it has not been told yet. `call_seconds`: how long a call took."""
        sets = ""
        values: dict[str, Any] = {}
        if call_seconds is not None and self.limit.max_concurrency:
            sets, values = "call_ms = :ms", {":ms": max(1, round(1000 * call_seconds))}
        elif not self._throttles and not self._waited_ms:
            return
        for _ in range(_ATTEMPTS):
            if self._write("attribute_exists(pk)", sets, values, 0):
                return

    def admit(self, calls: int, batch: str) -> None:
        """Counts the calls of a batch, once. Raises Overloaded, TooManyCalls."""
        longest = ADMITTED_SECONDS * SECOND_US
        if calls * self.limit.interval_us > longest:
            most = longest // self.limit.interval_us
            raise TooManyCalls(
                f"{calls:,} calls are needed, and {self.limit.name} allows {most:,} in {ADMITTED_SECONDS} s, "
                f"at {self.limit.per_second:.3g} a second; {REMEDY}"
            )
        marker = {"pk": self.limit.key["pk"], "sk": f"batch#{batch}"}
        counted = {**marker, "calls": calls, "expires_at": int(time.time()) + _MARKER_SECONDS}
        if put_if("attribute_not_exists(pk)", counted) is not None:
            return
        if not self._queue(calls):
            delete_if("attribute_exists(pk)", marker, {})
            waiting = max(0, self.state.clear_us - now_us()) // SECOND_US
            raise Overloaded(
                f"{self.limit.name} allows {self.state}, for all queries together, and the calls that wait "
                f"for it take {waiting:,} s: the {calls:,} of this batch would not be made in its "
                f"{BATCH_SECONDS} s. Snowflake tries again; if the query fails, {REMEDY}"
            )

    def _queue(self, calls: int) -> bool:
        """Puts calls behind those that were admitted before; False where they would be made too late.

        Where there are none before, any are admitted that the declared rate allows: only calls raise the rate
        that was found, and it could be out of date.
        """
        self._read()
        for _ in range(_ATTEMPTS):
            now, work = now_us(), calls * self.state.admission_us
            last = now + QUEUED_SECONDS * SECOND_US - work
            if self.state.clear_us <= now:
                queued = self._write(
                    "clear_us <= :now", "clear_us = :clear", {":now": now, ":clear": now + work}, 0
                )
            elif self.state.clear_us > last:
                break
            else:
                values = {":now": now, ":last": last, ":work": work}
                queued = self._write(
                    "clear_us BETWEEN :now AND :last", "clear_us = clear_us + :work", values, 0
                )
            if queued:
                return True
        self._write("attribute_exists(pk)", "", {":refused": 1}, 0)
        return False

    def give_back(self, calls: int) -> None:
        """Takes admitted calls that need not be made out of the queue."""
        now = now_us()
        values = {":work": calls * self.state.admission_us, ":now": now}
        if calls and values[":work"]:
            self._write("clear_us > :now", "clear_us = clear_us - :work", values, 0)

    def _longer(self, now: int, interval: int) -> int:
        """By how much more time the queued calls take at this interval, and as those refused come again."""
        bucket = self.state
        queued = max(0, bucket.clear_us - now)
        slower = queued * (interval - bucket.interval_us) // bucket.interval_us if bucket.interval_us else 0
        return slower + (self._throttles * interval if queued else 0)

    def _raised(self, now: int) -> int:
        """The interval, shorter by what the rate has been raised since the last cut or raise."""
        bucket = self.state
        elapsed = now - max(bucket.throttled_us, bucket.raised_us)
        if bucket.interval_us <= bucket.declared_us or elapsed < SECOND_US or self._throttles:
            return bucket.interval_us
        step = RAISE * min(elapsed, MOST_RAISED_US) / SECOND_US / (bucket.cut_us or bucket.interval_us)
        return max(bucket.declared_us, round(1 / (1 / bucket.interval_us + step)))

    def _read(self) -> None:
        self._know(get_item(self.limit.key) or {})

    def _write(self, condition: str, sets: str, values: dict[str, Any], calls: int) -> bool:
        """Updates the bucket if it is as this worker knows it; either way, it is known afterwards."""
        totals = {
            ":leased": calls,
            ":throttles": self._throttles,
            ":waited": self._waited_ms,
            ":refused": values.pop(":refused", 0),
        }
        update = "ADD #calls :leased, throttles :throttles, waited_ms :waited, refused :refused"
        # As long as it is used, it is not deleted.
        sets = f"expires_at = :expires_at, {sets}" if sets else "expires_at = :expires_at"
        known = {":interval": self.state.interval_us, ":declared": self.state.declared_us}
        written, item = change_if(
            f"{condition} AND interval_us = :interval AND declared_us = :declared",
            self.limit.key,
            f"SET {sets} {update}",
            {**values, **known, **totals, ":expires_at": expires_at()},
        )
        if written:
            self._throttles = self._waited_ms = 0
        self._know(item)
        return written

    def _know(self, item: dict[str, Any]) -> None:
        """Takes over what the table says.

        Makes the bucket where there is none, or for another declaration.
        """
        declared = (self.limit.interval_us, self.limit.max_concurrency or 0)
        state = read_stored(Bucket, item) if item else None
        if state and (state.declared_us, state.max_concurrency) == declared:
            self.state = state
            return
        fresh = Bucket(declared[0], declared[0], declared[1])
        if state:
            fresh = replace(
                state,
                interval_us=declared[0],
                declared_us=declared[0],
                max_concurrency=declared[1],
                throttled_us=0,
            )
        condition, values = "attribute_not_exists(pk)", {}
        if state:
            condition = "declared_us = :declared AND max_concurrency = :most"
            values = {":declared": state.declared_us, ":most": state.max_concurrency}
        put_if(condition, {**self.limit.key, **fresh.__dict__}, values)
        self.state = fresh


def now_us() -> int:
    """Now, as the times of a Bucket."""
    return int(time.time() * SECOND_US)
