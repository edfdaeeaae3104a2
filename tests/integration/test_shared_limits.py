"""Limits that all batches and workflows share, and no call twice: counted where the calls arrive.

Functions and services with notes (tests/functions/_notes.py) say when each of their calls was made.
Comprehend's calls are those that the engine counts.
"""

import bisect
import gzip
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from batch.store import FunctionBatch, answers_prefix
from core.exact_json import dump_json
from stepflake.local.engine import Settings
from stepflake.local.faults import Faults
from stepflake.local.limits import Value
from stepflake.local.stack import LocalStack
from stepflake.stack import Stack
from tests.caller import Caller, Response, new_batch_id
from tests.conftest import COMPREHEND_PER_SECOND
from tests.runs import end_of

# As the functions and services of the tests say.
LIMITED_PER_SECOND = 40
NARROW_CALLS = 3

# Of a bucket's tokens, those of half a second are kept (core.calls.rates).
BURST_SECONDS = 0.5
# On a busy machine calls are made so long after their tokens fell due, with later ones.
LATE_SECONDS = 1.5


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Notes:
    """What was called under a key. `calls`: how often for each text. `times`: of all calls, in order."""

    def __init__(self, caller: Caller, key: str) -> None:
        (self.all,) = caller.call("noted", [[key]]).values
        called = [note for note in self.all if "called" in note]
        self.calls = Counter(note["called"] for note in called)
        self.times: list[float] = sorted(float(note["at"]) for note in called)

    def most_in_a_second(self) -> int:
        return max(bisect.bisect_left(self.times, at + 1) - number for number, at in enumerate(self.times))

    def most_at_once(self) -> int:
        most = running = 0
        for note in sorted(self.all, key=lambda note: note["at"]):
            running += 1 if "called" in note else -1
            most = max(most, running)
        return most


def texts(count: int, prefix: str = "text") -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def rows(key: str, texts: list[str]) -> list[list[Any]]:
    return [[key, text] for text in texts]


def upper(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


def allowed(per_second: float, seconds: float) -> float:
    """The most calls of a rate in that time."""
    return per_second * (seconds + BURST_SECONDS) + 1


# --- a rate ---


@pytest.mark.faults
def test_batches_share_a_rate_and_those_whose_workers_have_no_more_time_go_on_where_they_were(
    caller: Caller, pool: ThreadPoolExecutor, key: str, faults: Faults
) -> None:
    # They take 9 s together, and a worker has 6 s.
    batches = [texts(60, f"batch {number}, text") for number in range(6)]

    began = time.monotonic()
    answers = list(pool.map(lambda batch: caller.call("limited", rows(key, batch)), batches))
    seconds = time.monotonic() - began

    assert [answer.values for answer in answers] == [upper(batch) for batch in batches]
    notes = Notes(caller, key)
    assert len(notes.times) <= allowed(LIMITED_PER_SECOND, seconds)
    assert notes.most_in_a_second() <= allowed(LIMITED_PER_SECOND, 1 + LATE_SECONDS)
    assert len(notes.calls) == 360
    # What a worker that was killed had not stored is called again.
    assert faults.kill or set(notes.calls.values()) == {1}
    assert sum(notes.calls.values()) < 1.5 * 360


def stored_rows(stack: Stack, execution: str) -> list[dict[int, str]]:
    """What each attempt at the only chunk of a batch stored of its rows."""
    s3, bucket = stack.client("s3"), stack.outputs["Bucket"]
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=answers_prefix(execution, 0)).get("Contents", [])
    bodies = [s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed]
    return [dict(json.loads(gzip.decompress(body))) for body in bodies]


def test_a_worker_that_dies_has_only_the_rows_called_again_that_it_had_not_stored(
    caller: Caller, stack: Stack, key: str
) -> None:
    given = texts(330)
    # The first worker calls at most 240 rows in its time, and the second one dies here.
    given[280] = "kill"
    batch_id = new_batch_id()

    started = caller.post("limited", rows(key, given), batch_id)
    answer = caller.poll("limited", batch_id)

    assert answer.values == upper(given)
    calls = Notes(caller, key).calls
    attempts = stored_rows(stack, started.document["execution"])
    stored = {row for attempt in attempts if 280 not in attempt for row in attempt}
    twice = {row for row, text in enumerate(given) if calls[text] == 2}
    assert len(stored) >= 100
    assert 280 in twice
    assert not stored & twice
    assert sum(calls.values()) == 330 + len(twice)


# --- calls at the same time ---


@pytest.mark.faults
def test_batches_share_the_calls_that_may_run_at_the_same_time(
    caller: Caller, pool: ThreadPoolExecutor, key: str, faults: Faults
) -> None:
    batches = [texts(10, f"batch {number}, text") for number in range(5)]

    answers = list(pool.map(lambda batch: caller.call("narrow", rows(key, batch)), batches))

    assert [answer.values for answer in answers] == [upper(batch) for batch in batches]
    notes = Notes(caller, key)
    if not faults.kill:
        assert set(notes.calls.values()) == {1}
        assert notes.most_at_once() == NARROW_CALLS


# --- no work twice ---


@pytest.mark.faults
def test_equal_texts_of_batches_at_the_same_time_are_hardly_called_twice_and_later_not_at_all(
    caller: Caller, pool: ThreadPoolExecutor, key: str
) -> None:
    distinct = texts(90)
    given = distinct * 2

    answers = list(pool.map(lambda _: caller.call("remembered", rows(key, given)), range(4)))
    first = Notes(caller, key).calls
    again = caller.call("remembered", rows(key, given))
    second = Notes(caller, key).calls

    assert [answer.values for answer in answers] == [upper(given)] * 4
    assert again.values == upper(given)
    assert sorted(first) == sorted(distinct)
    assert sum(first.values()) <= 2.5 * len(distinct)
    assert second == first


@pytest.mark.faults
def test_errors_are_not_kept_and_nulls_are(caller: Caller, key: str, faults: Faults) -> None:
    given = ["error", "null", "text", "error"]

    answers = [caller.call("remembered", rows(key, given)).values for _ in range(2)]

    error = {"error": "ValueError", "cause": "error"}
    assert answers == [[error, None, "TEXT", error]] * 2
    calls = Notes(caller, key).calls
    if not faults.any:
        # Equal rows of a batch are called once, also those that raise.
        assert calls == {"error": 2, "null": 1, "text": 1}
    assert calls["error"] >= 2


# --- more than fits ---


@pytest.fixture
def scarce(stack: Stack) -> Iterator[None]:
    """The limit of the function `scarce`, of which nothing is queued; its batches are stopped afterwards."""
    reset(stack, "scarce")
    yield
    client = stack.client("stepfunctions")
    machine = stack.outputs["BatchStateMachineArn"]
    for run in client.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"]:
        if run["name"].startswith("scarce-"):
            client.stop_execution(executionArn=run["executionArn"])
    reset(stack, "scarce")


def limit_key(name: str) -> dict[str, Any]:
    return {"pk": {"S": f"rate#{name}"}, "sk": {"S": "bucket"}}


def reset(stack: Stack, limit: str) -> None:
    stack.client("dynamodb").delete_item(TableName=stack.outputs["Table"], Key=limit_key(limit))


@pytest.mark.usefixtures("scarce")
def test_a_batch_that_would_wait_too_long_is_refused_until_there_is_room(caller: Caller, key: str) -> None:
    one, other = new_batch_id(), new_batch_id()

    accepted = caller.post("scarce", rows(key, texts(300)), one)
    refused = caller.post("scarce", rows(key, texts(300)), other)
    repeated = caller.post("scarce", rows(key, texts(300)), one)
    small = caller.post("scarce", rows(key, texts(60)), new_batch_id())

    assert accepted.status == 202
    assert (refused.status, refused.document["error"]) == (429, "Throttled")
    assert refused.document["message"].startswith(
        "scarce allows 1 calls a second, for all queries together, and the calls that wait for it take "
    )
    assert "MAX_BATCH_ROWS" in refused.document["message"]
    # It is not counted again.
    assert repeated.status == 202
    assert small.status == 202


@pytest.mark.usefixtures("scarce")
def test_what_fits_is_decided_by_the_rate_that_was_found(caller: Caller, stack: Stack, key: str) -> None:
    caller.call("scarce", rows(key, ["text"]))
    # As if the called service had refused calls until one in four seconds was left.
    stack.client("dynamodb").update_item(
        TableName=stack.outputs["Table"],
        Key=limit_key("scarce"),
        UpdateExpression="SET interval_us = :found, cut_us = :found, clear_us = :nothing",
        ExpressionAttributeValues={":found": {"N": "4000000"}, ":nothing": {"N": "0"}},
    )

    # The rate may be out of date: as nothing waits, the batch may show what it is now.
    alone = caller.post("scarce", rows(key, texts(140)), new_batch_id())
    other = caller.post("scarce", rows(key, texts(10)), new_batch_id())

    assert alone.status == 202
    assert (other.status, other.document["error"]) == (429, "Throttled")
    said = re.fullmatch(
        r"scarce allows (\S+) calls a second \(declared: 1\), for all queries together, and the calls that "
        r"wait for it take (\d+) s: the 10 of this batch .*",
        other.document["message"],
    )
    assert said, other.document
    assert 0.25 <= float(said[1]) < 0.5
    # At a rate that was found, a fifth fewer calls are admitted.
    assert 140 / 0.5 < int(said[2]) <= 140 / (0.8 * 0.25)


@pytest.mark.usefixtures("scarce")
def test_a_batch_that_can_never_be_called_in_time_is_refused_for_good(caller: Caller, key: str) -> None:
    refused = caller.post("scarce", rows(key, texts(541)), new_batch_id())
    assert (refused.status, refused.document["error"]) == (413, "RequestTooLarge")
    assert refused.document["message"].startswith("541 calls are needed, and scarce allows 540 in 540 s")
    assert not Notes(caller, key).calls


@dataclass(frozen=True)
class HastyBatches:
    """The machine `batch` with less time: after six seconds of it, an attempt is the last one."""

    stack: Stack
    machine: str

    def start(self, function: str, rows: list[list[Any]]) -> str:
        batch = FunctionBatch("b", "q", "d" * 64, len(rows), 4096, 1, function, dump_json(rows))
        answer = self.stack.client("stepfunctions").start_execution(
            stateMachineArn=self.machine,
            name=f"{function}-{uuid.uuid4().hex}",
            input=json.dumps(batch.to_input()),
        )
        return str(answer["executionArn"])


@pytest.fixture
def hasty(stack: Stack) -> Iterator[HastyBatches]:
    client = stack.client("stepfunctions")
    batch = client.describe_state_machine(stateMachineArn=stack.outputs["BatchStateMachineArn"])
    definition = batch["definition"].replace("+ 590000)", "+ 36000)")
    assert definition != batch["definition"]
    arn = client.create_state_machine(
        name=f"{stack.stack_name}-hasty-{uuid.uuid4().hex}", definition=definition, roleArn=batch["roleArn"]
    )["stateMachineArn"]
    yield HastyBatches(stack, arn)
    client.delete_state_machine(stateMachineArn=arn)


@pytest.mark.usefixtures("scarce")
def test_a_batch_whose_time_ends_says_why_and_a_redrive_calls_only_the_rest(
    caller: Caller, stack: Stack, hasty: HastyBatches, key: str
) -> None:
    given = texts(12)
    handle = hasty.start("scarce", rows(key, given))

    failed = end_of(stack, handle)
    before = Notes(caller, key).calls
    stack.client("stepfunctions").redrive_execution(executionArn=handle)
    redriven = end_of(stack, handle)

    assert (failed.status, failed.error) == ("FAILED", "RateLimitExceeded")
    assert failed.cause.startswith("scarce allows 1 calls a second, for all queries together")
    assert "MAX_BATCH_ROWS" in failed.cause
    assert "rate_limit" in failed.cause
    assert 5 < len(before) < 12
    assert redriven.status == "SUCCEEDED"
    assert Notes(caller, key).calls == dict.fromkeys(given, 1)


# --- Amazon Comprehend ---


class Comprehend:
    """What the engine counted of all tests' calls since this was made."""

    limit = "comprehend.BatchDetectSentiment"

    def __init__(self, local: LocalStack) -> None:
        self._local = local
        self._before = self._counts()

    def _counts(self) -> dict[str, Any]:
        limits = self._local.engine.settings()["limits"]
        counts: dict[str, Any]
        (counts,) = (limit for limit in limits if limit["name"] == self.limit)
        return counts

    def count(self, what: str) -> int:
        """`allowed`, `refused` for the quota, or `failed` by a fault."""
        return int(self._counts()[what] - self._before[what])

    def peak(self) -> int:
        """The most calls that came within a second."""
        return int(self._counts()["peak"])


@pytest.fixture
def configure(local: LocalStack, stack: Stack, faults: Faults) -> Iterator[Callable[..., Comprehend]]:
    """Sets Comprehend's quota and its faults, until the test ends."""

    def set_(
        quota: float = COMPREHEND_PER_SECOND, burst: float | None = None, given: Faults = faults
    ) -> Comprehend:
        limits = {Comprehend.limit: Value(burst or quota, quota)}
        local.engine.configure(Settings(limits=limits, faults=given))
        return Comprehend(local)

    yield set_
    set_()
    # Others need not wait until the rate that was found has risen again.
    reset(stack, "comprehend")


def reviews(count: int) -> list[str]:
    """New texts, of which nothing is kept."""
    return [f"{'happy' if number % 2 else 'sad'} {uuid.uuid4()}" for number in range(count)]


def assert_scored(response: Response, given: list[str]) -> None:
    values = response.values
    assert len(values) == len(given)
    for text, value in zip(given, values, strict=True):
        assert (value["Positive"] > value["Negative"]) == text.startswith("happy"), (text, value)


@pytest.mark.faults
def test_functions_services_and_tasks_share_a_limit(
    caller: Caller, stack: Stack, configure: Callable[..., Comprehend], pool: ThreadPoolExecutor
) -> None:
    comprehend = configure(burst=allowed(COMPREHEND_PER_SECOND, LATE_SECONDS))
    steps = stack.client("stepfunctions")

    def start(workflow: str, document: dict[str, Any]) -> str:
        machine = stack.outputs[f"{workflow}StateMachineArn"]
        return str(steps.start_execution(stateMachineArn=machine, input=json.dumps(document))["executionArn"])

    began = time.monotonic()
    tasks = {"names": [{"text": text} for text in reviews(40)], "service": "sentiment"}
    handles = [start("FanOut", tasks)]
    documents = [
        {"text": f"I love the camera, and the battery is excellent: {uuid.uuid4()}"} for _ in range(4)
    ]
    handles += [start("Pipeline", {"document": document}) for document in documents]
    batches = [reviews(250) for _ in range(4)]
    answers = list(pool.map(lambda batch: caller.call("sentiment", [[text] for text in batch]), batches))
    runs = [end_of(stack, handle) for handle in handles]
    seconds = time.monotonic() - began

    for batch, answer in zip(batches, answers, strict=True):
        assert_scored(answer, batch)
    assert [run.status for run in runs] == ["SUCCEEDED"] * 5
    labels = [result["label"] for result in runs[0].output["results"]]
    assert labels == ["Negative", "Positive"] * 20
    assert 40 + 4 + 4 * 10 <= comprehend.count("allowed") <= allowed(COMPREHEND_PER_SECOND, seconds)
    assert comprehend.peak() <= allowed(COMPREHEND_PER_SECOND, 1 + LATE_SECONDS)
    assert comprehend.count("refused") == 0


def test_no_batch_fails_where_a_third_of_comprehends_calls_fail(
    caller: Caller, configure: Callable[..., Comprehend], pool: ThreadPoolExecutor
) -> None:
    comprehend = configure(given=Faults(fail=0.3, services=("comprehend",)))
    batches = [reviews(250) for _ in range(4)]

    answers = list(pool.map(lambda batch: caller.call("sentiment", [[text] for text in batch]), batches))

    for batch, answer in zip(batches, answers, strict=True):
        assert_scored(answer, batch)
    assert comprehend.count("failed") >= 10


def test_a_quota_that_is_lower_than_declared_is_found(
    caller: Caller, stack: Stack, configure: Callable[..., Comprehend], pool: ThreadPoolExecutor
) -> None:
    comprehend = configure(5)
    batches = [reviews(250) for _ in range(4)]

    answers = list(pool.map(lambda batch: caller.call("sentiment", [[text] for text in batch]), batches))

    for batch, answer in zip(batches, answers, strict=True):
        assert_scored(answer, batch)
    bucket = stack.client("dynamodb").get_item(
        TableName=stack.outputs["Table"], Key=limit_key("comprehend"), ConsistentRead=True
    )["Item"]
    found = 1_000_000 / int(bucket["interval_us"]["N"])
    refused = comprehend.count("refused")
    assert refused > 0
    # How near it comes to the quota in these few calls depends on when they were refused.
    assert 1 < found < COMPREHEND_PER_SECOND
    # They are told the table with a later write, so some may not be there yet.
    assert int(bucket["throttles"]["N"]) > 0
