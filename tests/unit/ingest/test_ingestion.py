"""Ingestion of an object: limits, chunks, the time that is left, and workers that die."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from core.catalog import Parameter, Signature
from ingest import ingestion, lock, unlock, work
from ingest.file_rows import RowError
from ingest.ingestion import (
    RowSource,
    check_rows,
    checkpoints_id,
    find_signature,
    function_name,
    ingest,
    output_key,
)
from ingest.landed_objects import Content, LandedObject, ObjectError, find_object
from ingest.locks import LEASE_SECONDS
from tests.unit.conftest import Deploy
from tests.unit.fake_aws import CONTEXT, FakeAws, FakeContext

MACHINE = Path(__file__).parents[3] / "statemachines" / "ingest.asl.json"
KEY = "ingest/twice/a.csv"
TWICE = Signature("twice", (Parameter("n", "int"),), variadic=False, returns="int", chunk_rows=2)
SOURCE = """
    CALLS = []

    @remote_function(chunk_rows=2)
    def twice(n: int) -> int:
        CALLS.append(n)
        return 2 * n
"""


def landed(aws: FakeAws) -> LandedObject:
    """The object of KEY as the machine carries it."""
    described = find_object(KEY, None, None)
    assert described
    return described


@pytest.fixture
def calls(aws: FakeAws, deploy: Deploy) -> list[int]:
    """The rows that the function `twice` was called for. Five rows for it have landed."""
    deploy(twice=SOURCE)
    aws.s3.put(KEY, b"n\n1\n2\n3\n4\n5\n", content_type="text/csv")
    made: list[int] = importlib.import_module("functions.twice").CALLS
    return made


def outputs(aws: FakeAws) -> list[bytes]:
    """The outputs that were written for the object."""
    return list(aws.s3.under("ingested/twice/a.csv/").values())


def test_a_call_stops_between_chunks_when_little_time_is_left(aws: FakeAws, calls: list[int]) -> None:
    landed_object = landed(aws)

    results = [ingest(landed_object, lambda: 0.0) for _ in range(3)]

    # Each call finishes one more chunk, even without time left: a chunk that never fits ends by the timeout.
    assert [result and result["rows"] for result in results] == [None, None, 5]
    assert calls == [1, 2, 3, 4, 5]
    stored = aws.s3.objects[f"ingested/twice/a.csv/{landed_object['content']['etag']}.jsonl"]
    assert stored.body.splitlines()[4] == b'{"row":{"n":"5"},"result":10}'
    assert stored.metadata == {"rows": "5"}


def test_with_time_all_chunks_are_one_call(aws: FakeAws, calls: list[int]) -> None:
    result = ingest(landed(aws), lambda: 280.0)

    assert result
    assert (result["outcome"], result["rows"], calls) == ("processed", 5, [1, 2, 3, 4, 5])


def test_an_output_that_exists_is_not_made_again(aws: FakeAws, calls: list[int]) -> None:
    first = ingest(landed(aws), lambda: 280.0)

    again = ingest(landed(aws), lambda: 280.0)

    assert again == first
    assert calls == [1, 2, 3, 4, 5]


def test_a_late_worker_does_not_change_the_output(aws: FakeAws, calls: list[int]) -> None:
    landed_object = landed(aws)
    output = f"ingested/twice/a.csv/{landed_object['content']['etag']}.jsonl"
    aws.faults.meanwhile("get_object", lambda: aws.s3.put(output, b"first", metadata={"rows": "1"}))

    ingest(landed_object, lambda: 280.0)

    assert outputs(aws) == [b"first"]
    assert calls == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "end", [lambda s3: s3.objects.pop(KEY), lambda s3: s3.put(KEY, b"n\n7\n")], ids=["deleted", "replaced"]
)
def test_a_deleted_object_is_recorded_as_gone(
    aws: FakeAws, calls: list[int], end: Callable[[Any], Any]
) -> None:
    landed_object = landed(aws)
    aws.faults.meanwhile("get_object", lambda: end(aws.s3))

    result = ingest(landed_object, lambda: 280.0)

    assert result
    assert (result["outcome"], calls, outputs(aws)) == ("gone", [], [])


def test_too_large_an_object_is_refused_before_it_is_read(aws: FakeAws, calls: list[int]) -> None:
    large = landed(aws) | {"bytes": 32 * 1024 * 1024 + 1}
    with pytest.raises(
        ObjectError, match=r"has 33,554,433 bytes and at most 33,554,432 are ingested; split it"
    ):
        ingest(large, lambda: 280.0)

    assert calls == []
    assert "get_object" not in aws.faults.operations()


@pytest.mark.usefixtures("calls")
def test_too_many_chunks_are_refused(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "MAX_CHUNKS", 2)

    with pytest.raises(
        ObjectError, match=r"has 5 rows, and twice takes at most 4 of one object \(2 chunks\)"
    ):
        ingest(landed(aws), lambda: 280.0)


# --- limits, equal rows and kept results ---

LIMITED = """
    CALLS = []

    @remote_function(chunk_rows=40, rate_limit="2/second")
    def twice(n: int) -> int:
        CALLS.append(n)
        return 2 * n
"""


def work_for(aws: FakeAws, seconds_left: float, owner: str = "first") -> work.Progress:
    """One call of the Lambda, whose lock is held."""
    lock.handler({"input": {"key": KEY}, "owner": owner, "run_id": owner}, CONTEXT)
    return work.handler({"object": landed(aws), "owner": owner, "run_id": owner}, FakeContext(seconds_left))


@pytest.mark.parametrize("rows", [40, 100])
def test_a_limit_that_takes_longer_than_an_invocation_is_not_the_end(
    aws: FakeAws, deploy: Deploy, rows: int
) -> None:
    deploy(twice=LIMITED)
    aws.s3.put(KEY, "".join(f"{n}\n" for n in ["n", *range(rows)]).encode(), content_type="text/csv")
    calls = importlib.import_module("functions.twice").CALLS
    made = []

    while not (progress := work_for(aws, 10))["finished"]:
        made.append(len(calls))

    # Each invocation makes the calls that it has time for, and none is made twice.
    assert len(made) > 1
    assert made[0] > 10
    assert sorted(calls) == list(range(rows))
    assert progress["result"]
    assert progress["result"]["rows"] == rows
    [body] = outputs(aws)
    assert [json.loads(line)["result"] for line in body.splitlines()] == [2 * n for n in range(rows)]


def test_answers_are_looked_for_only_where_an_invocation_may_have_stopped(
    aws: FakeAws, calls: list[int]
) -> None:
    ingest(landed(aws), lambda: 280.0)

    assert calls == [1, 2, 3, 4, 5]
    assert aws.faults.operations().count("list_objects_v2") == 1


def test_equal_rows_and_kept_results_are_not_called(aws: FakeAws, deploy: Deploy) -> None:
    deploy(twice=LIMITED.replace('rate_limit="2/second"', 'deduplicate=True, reuse="7 days"'))
    calls = importlib.import_module("functions.twice").CALLS
    for content in (b"n\n1\n2\n1\n", b"n\n2\n3\n3\n1\n"):
        aws.s3.put(KEY, content, content_type="text/csv")
        assert ingest(landed(aws), lambda: 280.0)

    assert calls == [1, 2, 3]
    assert sorted(body.count(b"\n") for body in outputs(aws)) == [3, 4]


# --- the Lambdas, as the machine calls them ---


def run(execution: str, seconds_left: float = 0) -> Mapping[str, Any]:
    """A run for the object, with the run id of the first one; its output. Each call finishes one chunk."""
    locked = lock.handler({"input": {"key": KEY}, "owner": execution, "run_id": "first"}, CONTEXT)
    if locked["outcome"] != "locked":
        return locked
    event: Any = {"object": locked["object"], "owner": execution, "run_id": "first"}
    while not (progress := work.handler(event, FakeContext(seconds_left)))["finished"]:
        pass
    result: Any = progress["result"]
    event["result"] = result
    output = unlock.handler(event, CONTEXT)
    assert output
    return output


@pytest.mark.parametrize("again", ["first", "first-r1"], ids=["retried", "resumed"])
def test_wherever_a_worker_dies_the_object_is_ingested_once(aws: FakeAws, deploy: Deploy, again: str) -> None:
    deaths = 0
    for death in aws.faults.each_death():
        aws.dynamodb.items.clear()
        aws.s3.objects.clear()
        aws.s3.put(KEY, b"n\n1\n2\n3\n4\n5\n", content_type="text/csv")
        deploy(twice=SOURCE)
        with death:
            run("first")
        deaths += death.happened
        done = len(aws.s3.under("ingested/"))

        output = run(again)

        # After a death that followed the completion of the lock, nothing is left to do.
        assert output["outcome"] in ({"processed", "skipped"} if done else {"processed"})
        assert (output["rows"], output["function"]) == (5, "twice")
        assert [body.count(b"\n") for body in outputs(aws)] == [5]
        assert run("other")["outcome"] == "skipped"
        # A chunk whose checkpoint was written is not run again.
        assert len(importlib.import_module("functions.twice").CALLS) in (5, 6, 7)
    assert deaths > 30


def test_an_execution_of_version_0_1_sends_no_run_id_after_the_lock(aws: FakeAws, calls: list[int]) -> None:
    locked = lock.handler({"input": {"key": KEY}, "owner": "first", "run_id": "first"}, CONTEXT)
    progress = work.handler({"object": locked["object"], "owner": "first"}, CONTEXT)
    event: unlock.Event = {"object": locked["object"], "owner": "first", "result": None}

    assert progress["finished"]
    assert unlock.handler(event, CONTEXT) is None
    assert (
        lock.handler({"input": {"key": KEY}, "owner": "other", "run_id": "other"}, CONTEXT)["outcome"]
        == "locked"
    )


def test_a_lock_that_another_run_holds_is_named(aws: FakeAws, calls: list[int]) -> None:
    lock.handler({"input": {"key": KEY}, "owner": "first", "run_id": "first"}, CONTEXT)

    output = lock.handler({"input": {"key": KEY}, "owner": "other", "run_id": "other"}, CONTEXT)

    assert output["outcome"] == "held"
    assert "run first is ingesting this content" in output["message"]


# --- parts ---


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ingest/sentiment/a.csv", "sentiment"),
        ("ingest/sentiment/2026/a.csv", "sentiment"),
        ("ingest/sentiment/", None),
        ("ingest/a.csv", None),
        ("ingest//a.csv", None),
    ],
)
def test_the_second_segment_of_the_key_names_the_function(key: str, name: str | None) -> None:
    assert function_name(key) == name


def test_the_output_s_key_holds_the_content() -> None:
    assert output_key(Content("b", "ingest/f/日 本+.csv", "e1", "v1")) == "ingested/f/日 本+.csv/e1.v1.jsonl"


def test_a_key_whose_output_s_key_would_be_too_long_is_refused() -> None:
    key = "ingest/f/" + "é" * 500

    with pytest.raises(ObjectError, match="shorten it by 26 bytes"):
        output_key(Content("b", key, "0" * 32))


def test_a_function_whose_arguments_cannot_be_matched_with_columns_is_refused(deploy: Deploy) -> None:
    deploy(
        echo="@remote_function()\ndef echo(*arguments: Any) -> list[Any]: ...\n",
        twice="@remote_function()\ndef twice(n: int) -> int: ...\n",
    )

    with pytest.raises(
        ObjectError, match=r"echo\(arguments VARIANT \.\.\.\) -> ARRAY takes any number of arguments"
    ):
        find_signature("echo")
    with pytest.raises(
        ObjectError, match=r"no function 'thrice', which the key names; there are: echo, twice"
    ):
        find_signature("thrice")


def test_all_rows_are_checked_before_any_is_run() -> None:
    assert check_rows(RowSource('{"n": 1}\n{"m": 2}', "json", TWICE)) == 2
    with pytest.raises(RowError, match=r"no row has the column 'n', which twice.* takes; there are: m, o"):
        check_rows(RowSource('{"m": 1}\n{"o": 2}', "json", TWICE))
    with pytest.raises(RowError, match="line 3: the column 'n' is not a number"):
        check_rows(RowSource("n\n1\nx\n", "csv", TWICE))


def test_checkpoints_belong_to_one_content() -> None:
    contents = [
        Content("b", "k", "e"),
        Content("b", "k", "e", "v"),
        Content("b", "k", "f"),
        Content("b", "l", "e"),
        Content("c", "k", "e"),
    ]

    assert len({checkpoints_id(content) for content in contents}) == len(contents)
    assert all(len(checkpoints_id(content)) == 47 for content in contents)


def test_the_lease_is_longer_than_what_is_done_without_renewing_it() -> None:
    state = json.loads(MACHINE.read_text())["States"]["Ingest"]

    waits = [
        min(retry["IntervalSeconds"] * retry["BackoffRate"] ** number, retry.get("MaxDelaySeconds", 3600))
        for retry in state["Retry"]
        for number in range(retry["MaxAttempts"])
    ]
    assert state["TimeoutSeconds"] + sum(waits) < LEASE_SECONDS
