"""The rows of a chunk: which of them are called, in which calls, and what a retry goes on with."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import deadline
from core.calls.answers import StoredAnswers
from core.calls.rates import Limit, TokenBucket
from core.calls.reuse import FRESH_SECONDS, Reuse
from core.calls.rows import STORE_SECONDS, STORE_SECONDS_UNLIMITED
from core.errors import FunctionError, RateLimited, ThrottleError, TransientError
from core.exact_json import dump_json
from core.patience import ATTEMPTS
from tests.unit.core.calls.counted import PREFIX, Counted, write_code
from tests.unit.fake_aws import CONTEXT, FakeAws, FakeContext

# Arguments that are equal to Python or to a reader, and not to SQL.
ALIKE: list[Any] = [
    None,
    1,
    Decimal("1.0"),
    Decimal("1.00"),
    "1",
    True,
    "true",
    [],
    {},
    "",
    "é",
    "e\u0301",
    [1],
    ["1"],
]


@pytest.fixture(autouse=True)
def code(aws: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_code(tmp_path, monkeypatch, "f")


# --- equal rows ---


@pytest.mark.parametrize(
    "options", [{"deduplicate": True}, {"reuse": "7 days"}], ids=["deduplicate", "reuse"]
)
@pytest.mark.parametrize("shape", [{}, {"concurrency": 3}, {"vectorized": True, "rows_per_call": 4}])
def test_equal_rows_are_called_once_and_others_are_kept_apart(
    options: dict[str, Any], shape: dict[str, Any]
) -> None:
    function = Counted(**options, **shape)
    rows = [*ALIKE, *reversed(ALIKE), *ALIKE]

    values = function.run(rows)

    assert list(map(dump_json, values)) == [dump_json([row]) for row in rows]
    assert sorted(map(dump_json, function.called)) == sorted(map(dump_json, ALIKE))


def test_equal_rows_are_called_each_where_nothing_else_is_said() -> None:
    function = Counted()

    assert function.run(["a", "a", "b", "a"]) == [["a"], ["a"], ["b"], ["a"]]
    assert function.called == ["a", "a", "b", "a"]


def test_rows_are_equal_only_in_all_their_arguments() -> None:
    function = Counted(deduplicate=True)

    assert function.run([["a", 1], ["a", 2], ["a", 1]]) == [[["a", 1]], [["a", 2]], [["a", 1]]]
    assert len(function.calls) == 2


@pytest.mark.parametrize("on_error", ["null", "object"])
@pytest.mark.parametrize("shape", [{}, {"vectorized": True}])
def test_an_equal_row_gets_the_same_error(on_error: str, shape: dict[str, Any]) -> None:
    def refuse(value: Any) -> Any:
        raise ValueError(f"no {value}")

    function = Counted(refuse, deduplicate=True, on_error=on_error, **shape)

    expected = None if on_error == "null" else {"error": "ValueError", "cause": "no a"}
    assert function.run(["a", "a"], first=7) == [expected, expected]
    assert function.called == ["a"]


# --- any combination ---


@st.composite
def chunks(draw: Callable[..., Any]) -> dict[str, Any]:
    vectorized = draw(st.booleans())
    rows_per_call = draw(st.sampled_from([None, 1, 2, 3])) if vectorized else None
    return {
        "vectorized": vectorized,
        "rows_per_call": rows_per_call,
        "concurrency": draw(st.integers(1, 3)) if rows_per_call or not vectorized else 1,
        "deduplicate": draw(st.booleans()),
        "reuse": draw(st.sampled_from(["none", "7 days"])),
        "rate_limit": draw(st.sampled_from(["none", "100/second"])),
        "max_concurrency": draw(st.sampled_from([None, 2])),
        "on_error": draw(st.sampled_from(["null", "object"])),
    }


def picky(value: Any) -> Any:
    if value == "bad":
        raise ValueError("no")
    return {"got": value}


@given(
    options=chunks(),
    rows=st.lists(st.sampled_from([*ALIKE, "bad"]), max_size=14),
    kept=st.lists(st.sampled_from([*ALIKE, "bad"]), max_size=6),
    stored=st.sets(st.integers(0, 13), max_size=6),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_rows_are_called_the_result_is_that_of_plain_calls_and_the_calls_are_the_fewest(
    aws: FakeAws, options: dict[str, Any], rows: list[Any], kept: list[Any], stored: set[int]
) -> None:
    aws.clear()
    deadline.begin(CONTEXT)
    plain = Counted(picky, on_error=options["on_error"]).run(rows)
    # Earlier: other batches' results, and an attempt at this chunk that answered some of its rows.
    Counted(picky, **options).run(kept)
    answered = {number for number in stored if number < len(rows)}
    StoredAnswers(PREFIX, is_first=True).save({number: dump_json(plain[number]) for number in answered})

    function = Counted(picky, **options)
    values = function.run(rows, again=True)

    assert list(map(dump_json, values)) == list(map(dump_json, plain))
    needed = [dump_json(row) for number, row in enumerate(rows) if number not in answered]
    if options["deduplicate"] or options["reuse"] != "none":
        needed = sorted(set(needed) - {dump_json(rows[number]) for number in answered})
    if options["reuse"] != "none":
        needed = [row for row in needed if row == '"bad"' or row not in set(map(dump_json, kept))]
    assert sorted(map(dump_json, function.called)) == sorted(needed)
    assert len(function.calls) == function.signature.calls_for(len(needed))


# --- an attempt that stops, and the next one ---


def failing(error: Exception, *at: Any) -> Callable[[Any], Any]:
    def answer(value: Any) -> Any:
        if value in at:
            raise error
        return [value]

    return answer


@pytest.mark.parametrize(
    "shape",
    [{}, {"concurrency": 4}, {"vectorized": True, "rows_per_call": 5}, {"rate_limit": "20/second"}],
    ids=["plain", "in parallel", "vectorized", "limited"],
)
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (TransientError("busy"), TransientError),
        (ValueError("no"), FunctionError),
        (ThrottleError("slower"), RateLimited),
    ],
    ids=["transient", "final", "throttled"],
)
def test_a_retry_goes_on_where_the_attempt_before_stopped(
    error: Exception, raised: type[Exception], shape: dict[str, Any]
) -> None:
    rows = list(range(40))
    first = Counted(failing(error, 17), **shape)
    with pytest.raises(raised):
        first.run(rows, again=False)
    answered = [value for value, count in Counter(first.called).items() if value != 17]

    deadline.begin(CONTEXT)
    second = Counted(**shape)
    assert second.run(rows, again=True) == [[row] for row in rows]

    assert answered
    assert sorted(second.called) == sorted(set(rows) - set(answered))


def test_the_answers_of_the_call_that_failed_the_chunk_are_kept() -> None:
    first = Counted(failing(ValueError("no"), "c"), vectorized=True)
    with pytest.raises(FunctionError, match="f, row 2: ValueError: no"):
        first.run(["a", "b", "c", "d"], again=False)

    second = Counted(vectorized=True)
    assert second.run(["a", "b", "c", "d"], again=True) == [["a"], ["b"], ["c"], ["d"]]
    assert second.calls == [["c"]]


def test_what_a_retry_does_not_avoid_counts_more_than_what_it_does() -> None:
    def answer(value: Any) -> Any:
        raise TransientError("busy") if value == 0 else ValueError("no")

    function = Counted(answer, vectorized=True)
    with pytest.raises(FunctionError, match="row 1: ValueError: no"):
        function.run([0, 1])
    assert function.calls == [[0, 1]]


@pytest.mark.parametrize(
    ("options", "seconds"), [({"rate_limit": "10/second"}, STORE_SECONDS), ({}, STORE_SECONDS_UNLIMITED)]
)
def test_a_worker_that_dies_has_stored_its_answers_every_few_seconds(
    aws: FakeAws, options: dict[str, Any], seconds: float
) -> None:
    rows = list(range(200))

    def work(values: list[Any]) -> None:
        aws.clock.sleep(0.5)
        if values == [150]:
            raise SystemExit

    first = Counted(before=work, **options)
    with pytest.raises(SystemExit):
        first.run(rows, again=False)
    second = Counted(**options)
    assert second.run(rows, again=True) == [[row] for row in rows]

    twice = set(first.called) & set(second.called)
    # A call takes half a second, and a limited one waits up to as long for its token.
    assert 1 <= len(twice) <= seconds / 0.5 + 2


def test_a_store_that_fails_meanwhile_is_not_fatal(aws: FakeAws) -> None:
    aws.faults.fail("put_object", "SlowDown", times=2)
    function = Counted(before=lambda _: aws.clock.sleep(STORE_SECONDS), rate_limit="10/second")

    assert function.run(list(range(6)), again=False) == [[n] for n in range(6)]
    assert aws.faults.operations().count("put_object") == 5
    last = StoredAnswers(PREFIX, is_first=False).load()
    assert last == {n: f"[{n}]" for n in range(5)}


def test_storing_that_is_denied_is_an_error(aws: FakeAws) -> None:
    aws.faults.fail("put_object", "AccessDenied")
    function = Counted(before=lambda _: aws.clock.sleep(STORE_SECONDS), rate_limit="10/second")

    with pytest.raises(ClientError, match="AccessDenied"):
        function.run([1, 2, 3], again=False)


@pytest.mark.parametrize("error", ["SlowDown", "InternalError"])
def test_where_nothing_can_be_stored_the_reason_for_the_stop_is_said(aws: FakeAws, error: str) -> None:
    aws.faults.fail("put_object", error, times=100)

    with pytest.raises(FunctionError, match="row 1: ValueError: no"):
        Counted(failing(ValueError("no"), "b")).run(["a", "b"], again=False)


def test_an_attempt_that_answered_nothing_new_stores_nothing(aws: FakeAws) -> None:
    for again in (False, True):
        with pytest.raises(TransientError):
            Counted(failing(TransientError("busy"), "a", "b"), vectorized=True).run(["a", "b"], again=again)
    assert not aws.s3.objects


def test_a_chunk_that_is_quick_stores_nothing(aws: FakeAws) -> None:
    Counted().run(list(range(100)), again=False)
    assert aws.faults.calls == []


def test_a_first_attempt_does_not_use_stored_answers() -> None:
    StoredAnswers(PREFIX, is_first=True).save({0: '"old"'})

    assert Counted().run(["a"], again=False) == [["a"]]
    assert Counted().run(["a"], again=True) == ["old"]


def test_the_answers_of_all_attempts_are_used() -> None:
    for numbers in ((0, 1), (1, 4)):
        StoredAnswers(PREFIX, is_first=True).save({number: f"[{number}]" for number in numbers})

    function = Counted()
    assert function.run(list(range(5)), again=True) == [[n] for n in range(5)]
    assert function.called == [2, 3]


@pytest.mark.parametrize("options", [{"deduplicate": True}, {"reuse": "1 day"}])
def test_a_row_that_is_equal_to_a_stored_one_is_not_called(options: dict[str, Any]) -> None:
    StoredAnswers(PREFIX, is_first=True).save({2: '"stored"'})

    function = Counted(**options)
    assert function.run(["a", "b", "a", "a"], again=True) == ["stored", ["b"], "stored", "stored"]
    assert function.called == ["b"]


# --- attempts at rows ---


def test_only_rows_that_failed_are_called_again_and_further_rows_with_them() -> None:
    busy = Counter({3: 1, 4: 2})

    def answer(value: Any) -> Any:
        if busy[value]:
            busy[value] -= 1
            raise TransientError("busy")
        return [value]

    function = Counted(answer, vectorized=True, rows_per_call=5)
    assert function.run(list(range(12))) == [[n] for n in range(12)]
    assert function.calls == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [4, 8, 9, 10, 11]]


def test_rows_that_fail_now_and_then_do_not_fail_the_chunk() -> None:
    chance = random.Random(8)

    def answer(value: Any) -> Any:
        if chance.random() < 0.2:
            raise TransientError("busy")
        return [value]

    function = Counted(answer, vectorized=True, rows_per_call=25)
    assert function.run(list(range(300))) == [[n] for n in range(300)]


@pytest.mark.parametrize("shape", [{}, {"vectorized": True, "rows_per_call": 2}])
def test_a_row_that_always_fails_is_called_a_few_times(shape: dict[str, Any]) -> None:
    function = Counted(failing(TransientError("busy"), 0), **shape)

    with pytest.raises(TransientError, match="f, row 0: TransientError: busy"):
        function.run(list(range(100)))
    assert function.called.count(0) == ATTEMPTS


@pytest.mark.parametrize("rate_limit", ["none", "10/second"])
def test_throttles_are_no_attempts(rate_limit: str) -> None:
    refusals = [ThrottleError("slower")] * 30

    def refuse(_: Any) -> None:
        if refusals:
            raise refusals.pop()

    function = Counted(before=refuse, vectorized=True, rows_per_call=2, rate_limit=rate_limit)
    assert function.run([1, 2, 3]) == [[1], [2], [3]]
    assert len(function.calls) == 32


def test_a_failure_in_one_thread_stops_the_others() -> None:
    function = Counted(failing(ValueError("no"), 5), vectorized=True, rows_per_call=1, concurrency=4)

    with pytest.raises(FunctionError):
        function.run(list(range(1000)))
    assert len(function.called) < 1000


def test_a_bad_row_fails_the_batch_before_others_of_its_call_are_paid_for() -> None:
    function = Counted(vectorized=True)
    object.__setattr__(function.signature.parameters[0], "type", "int")

    with pytest.raises(Exception, match="row 1: a is str, which is not int"):
        function.run([1, "x", 3])
    assert function.calls == []


# --- the limit ---


# A call is made a little before or after the queue has it.
A_FEW = 2


def limit_of(function: Counted) -> TokenBucket:
    limit = Limit.of(function.signature, "f")
    assert limit
    return TokenBucket(limit)


def queued_calls(aws: FakeAws, function: Counted) -> float:
    """How many calls are in the limit's queue."""
    bucket = aws.dynamodb.items["rate#f", "bucket"]
    seconds = int(bucket["clear_us"]["N"]) / 1_000_000 - aws.clock.now
    return round(max(0.0, seconds) / int(bucket["interval_us"]["N"]) * 1_000_000)


def test_calls_wait_for_the_limit(aws: FakeAws) -> None:
    began = aws.clock.now
    function = Counted(vectorized=True, rows_per_call=5, rate_limit="2/second")

    function.run(list(range(100)))

    assert len(function.calls) == 20
    assert 8.5 <= aws.clock.now - began <= 10.5


def test_without_time_for_the_limit_the_attempt_ends_and_the_next_one_goes_on(aws: FakeAws) -> None:
    rows = list(range(100))
    called: list[Any] = []
    for _ in range(3):
        deadline.begin(FakeContext(seconds_left=20))
        function = Counted(rate_limit="2/second")
        with pytest.raises(RateLimited, match="f allows 2 calls a second, for all queries together"):
            function.run(rows, again=True)
        assert len(function.called) >= 20
        called += function.called

    deadline.begin(CONTEXT)
    function = Counted(rate_limit="2/second")
    assert function.run(rows, again=True) == [[row] for row in rows]
    assert sorted(called + function.called) == rows


def test_calls_that_are_spared_leave_the_queue(aws: FakeAws) -> None:
    function = Counted(rate_limit="1/second", reuse="7 days")
    function.run(list(range(30)))
    aws.clock.sleep(60)
    limit_of(function).admit(function.signature.calls_for(50), "e")
    assert queued_calls(aws, function) == 50

    function.run(list(range(20, 70)), again=False)

    # Ten were known; the other forty have been made.
    assert queued_calls(aws, function) <= A_FEW


@pytest.mark.parametrize("deduplicate", [True, False])
def test_equal_rows_leave_the_queue_where_they_were_in_it(aws: FakeAws, deduplicate: bool) -> None:
    function = Counted(rate_limit="1/second", reuse="7 days", deduplicate=deduplicate)
    limit_of(function).admit(10 if deduplicate else 50, "e")

    function.run([n % 10 for n in range(50)])

    assert queued_calls(aws, function) <= A_FEW


def test_the_calls_of_a_batch_that_failed_leave_the_queue(aws: FakeAws) -> None:
    function = Counted(failing(ValueError("no"), 3), rate_limit="1/second")
    limit_of(function).admit(50, "e")

    with pytest.raises(FunctionError):
        function.run(list(range(50)), again=False)

    assert queued_calls(aws, function) <= A_FEW


def test_the_calls_of_an_attempt_that_is_repeated_stay_in_the_queue(aws: FakeAws) -> None:
    function = Counted(failing(TransientError("busy"), 3), rate_limit="1/second")
    limit_of(function).admit(50, "e")

    with pytest.raises(TransientError):
        function.run(list(range(50)), again=False)

    assert queued_calls(aws, function) > 30


# --- other workers with the same rows ---


def test_a_limit_s_rows_are_called_in_the_order_of_their_hashes_from_anywhere(aws: FakeAws) -> None:
    rows = list(range(50))
    by_hash = sorted(rows, key=lambda row: Reuse.digest(dump_json([row])))
    starts = set()
    for _ in range(5):
        aws.dynamodb.reuse_items.clear()
        function = Counted(rate_limit="100/second", reuse="7 days")
        function.run(rows)
        start = by_hash.index(function.called[0])
        starts.add(start)
        assert function.called == by_hash[start:] + by_hash[:start]
    assert len(starts) > 1


@pytest.mark.parametrize("options", [{"rate_limit": "100/second"}, {"reuse": "7 days"}])
def test_other_rows_are_called_in_their_order(options: dict[str, Any]) -> None:
    function = Counted(**options)
    function.run(list(range(50)))
    assert function.called == list(range(50))


@pytest.mark.parametrize("shape", [{}, {"vectorized": True, "rows_per_call": 25}, {"concurrency": 3}])
def test_what_another_worker_answers_meanwhile_is_not_called(aws: FakeAws, shape: dict[str, Any]) -> None:
    options = {"rate_limit": "2/second", "reuse": "7 days", **shape}
    rows = list(range(1000))
    twins = iter([Counted(reuse="7 days")])
    # No clock stands still for other threads.
    one_at_a_time = threading.Lock()

    def let_the_twin_run(_: Any) -> None:
        with one_at_a_time:
            for twin in twins:
                twin.run(rows)

    function = Counted(before=let_the_twin_run, **options)
    limit_of(function).admit(function.signature.calls_for(1000), "e")
    aws.faults.calls.clear()

    assert function.run(rows, again=False) == [[row] for row in rows]

    # Calls whose token was in hand when the twin began.
    assert len(function.calls) <= 1 + 2 * FRESH_SECONDS + 3
    assert queued_calls(aws, function) <= A_FEW
    reads = [call for call in aws.faults.calls if call.operation == "batch_get_item"]
    # Ten before the first call and ten of the twin; then each thread asks for more, the more is known.
    assert len(reads) < 65


def test_of_what_another_worker_answered_in_part_the_rest_is_called_in_full_calls(aws: FakeAws) -> None:
    rows = list(range(200))
    twins = iter([Counted(reuse="7 days")])

    def let_the_twin_run(values: list[Any]) -> None:
        for twin in twins:
            twin.run([row for row in rows if row % 2])

    function = Counted(
        before=let_the_twin_run, vectorized=True, rows_per_call=10, rate_limit="1/second", reuse="7 days"
    )
    assert function.run(rows) == [[row] for row in rows]

    others = function.calls[1:]
    assert all(row % 2 == 0 for call in others for row in call)
    assert all(len(call) == 10 for call in others[:-1])
    assert Counter(function.called).most_common(1)[0][1] == 1


def test_slots_bound_the_threads(aws: FakeAws) -> None:
    function = Counted(max_concurrency=1, concurrency=4)
    assert function.run(list(range(10))) == [[n] for n in range(10)]
    assert function.called == list(range(10))
    assert aws.dynamodb.items["rate#f", "slots"]["used"] == {"N": "0"}


def test_without_slots_the_attempt_ends_and_nothing_is_called(aws: FakeAws) -> None:
    other = Counted(max_concurrency=1)
    function = Counted(max_concurrency=1)

    def run_at_the_same_time(_: Any) -> None:
        deadline.begin(FakeContext(seconds_left=10))
        with pytest.raises(RateLimited):
            function.run([1])

    other.before = run_at_the_same_time
    assert other.run([1]) == [[1]]
    assert function.calls == []
