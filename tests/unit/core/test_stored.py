"""Documents that version 0.1 stored are read by the current code, and so are those of a later version.

A later version may add fields: to items, messages, records and inputs, whose readers ignore fields that they
do not know. It changes no existing field.
"""

import gzip
import json
from decimal import Decimal
from typing import Any

import pytest

from batch.store import FunctionBatch, WorkflowBatch, load_rows
from core.checkpoints import load_checkpoint
from core.exact_json import dump_json, parse_json
from core.records import Reject, Row
from core.stored import read_stored
from etl import transform
from etl.cleaning import record_from_json
from etl.stored_files import StoredFile, read_file
from fan_out import join, tasks, work
from fan_out.tasks import Task, TaskState
from ingest.landed_objects import Content
from ingest.locks import LEASE_SECONDS, Lock, acquire, complete, renew
from tests.unit.core import stored_0_1
from tests.unit.core.stored_0_1 import Item
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.invocations import redelivered, sqs_event

# The end of the leases that version 0.1 stored.
LEASE_END = 1763812800

# What a later version might add.
LATER: Item = {"later": {"M": {"n": {"N": "1.5"}}}, "later_count": {"N": "7"}}

is_later = pytest.mark.parametrize("later", [False, True], ids=["as 0.1 wrote it", "with fields added"])


def store(aws: FakeAws, *items: Item, later: bool = False) -> None:
    """Puts items into the table, unchanged or with fields that a later version added."""
    for item in items:
        key = item["pk"]["S"], item["sk"]["S"]
        aws.dynamodb.items[key] = {**item, **LATER} if later else item


def read(text: str, *, later: bool = False) -> Any:
    """A document of JSON, unchanged or with a field that a later version added."""
    document = parse_json(text)
    return {**document, "later": [1]} if later else document


# --- fan_out ---


def expected_state(status: Any, owner: str, **fields: Any) -> TaskState:
    return TaskState(status, "e/0", owner=owner, lease_until=LEASE_END, **fields)


STATES = {
    "running": expected_state("running", "295de38852594e508acafd74856bdcef", deaths=2),
    "waiting": expected_state("waiting", "e9f1dee2a4c74b79bdd913bf347ee148"),
    "done": expected_state(
        "done", "76f4602d0daa44c884584faf2f795cc8", result='{"name":"host2","weight":1.10}'
    ),
    "failed": expected_state(
        "failed", "6597a561e3b142128c0a17d5849dc61d", error="ServiceError", cause="hostname: ValueError: no"
    ),
}


@is_later
@pytest.mark.parametrize(("number", "status"), list(enumerate(STATES)))
def test_the_state_of_a_task(aws: FakeAws, number: int, status: str, later: bool) -> None:
    store(aws, stored_0_1.TASKS[status], later=later)

    state = tasks.load_state(Task("r", number, "e/0", "hostname"))

    assert state == STATES[status] == tasks.load_states("r", 0)[number]
    assert state
    assert [type(state.lease_until), type(state.deaths)] == [int, int]


@is_later
def test_tasks_continue_from_their_stored_states(aws: FakeAws, later: bool) -> None:
    store(aws, *stored_0_1.TASKS.values(), later=later)
    aws.clock.now = LEASE_END - 30.0
    running, waiting, done, failed = (Task("r", number, "e/0", "hostname") for number in range(4))

    with pytest.raises(tasks.TaskBusy, match="for up to 30 s"):
        tasks.claim(running, LEASE_END + 60, last=False)
    claimed = tasks.claim(waiting, LEASE_END + 60, last=False)
    tasks.finish(waiting, claimed, "in time")
    assert tasks.claim(done, LEASE_END + 60, last=False) == STATES["done"]
    assert tasks.claim(failed, LEASE_END + 60, last=False) == STATES["failed"]
    aws.clock.now = LEASE_END + 1.0
    assert tasks.claim(running, LEASE_END + 60, last=False).error == "WorkerDied"

    plan: tasks.TaskPlan = {"run_id": "r", "round": "e/0", "tasks": 4, "on_task_error": "entry"}
    assert join.join(plan)["results"] == [
        {"error": "WorkerDied", "cause": f"3 of its workers died while they ran it{tasks.SEE_LOG}"},
        "in time",
        {"name": "host2", "weight": 1.1},
        {"error": "ServiceError", "cause": "hostname: ValueError: no"},
    ]


@is_later
def test_the_message_of_a_task(aws: FakeAws, later: bool) -> None:
    store(aws, stored_0_1.TASKS["done"])
    message = dump_json(read(stored_0_1.TASK_MESSAGE, later=later))

    assert work.read(message) == (Task("r", 2, "e/0", "hostname"), "AQCEAAAAKgAAAAMAAAAAAAAAAW+/=")
    event = sqs_event("tasks", message)
    assert redelivered(event, work.handler(event, CONTEXT)) == []
    assert [callback.output for callback in aws.step_functions.callbacks] == ["{}"]


# --- ingest ---


def content(lock: Item) -> Content:
    """The content that a lock is for."""
    bucket, _, key = lock["pk"]["S"].removeprefix("object#").partition("/")
    etag, _, version_id = lock["sk"]["S"].removeprefix("content#").partition(".")
    return Content(bucket, key, etag, version_id or None)


@is_later
def test_a_lock_that_is_held(aws: FakeAws, later: bool) -> None:
    store(aws, stored_0_1.LOCK_HELD, later=later)
    held = content(stored_0_1.LOCK_HELD)

    lock = acquire(held, "other", "other", clock=lambda: LEASE_END)

    assert lock == Lock("5a1c9e02-run", "5a1c9e02-run", LEASE_END, None)
    assert type(lock.lease_until) is int
    assert lock.lease_end == "2025-11-22T12:00:00+00:00"
    renew(held, "5a1c9e02-run", clock=lambda: LEASE_END)
    renewed = acquire(held, "other", "other", clock=lambda: LEASE_END + 1)
    assert renewed.lease_until == LEASE_END + LEASE_SECONDS
    complete(held, "5a1c9e02-run", {"rows": 1})
    assert acquire(held, "other", "other").result == {"rows": 1}


@is_later
def test_a_lock_that_is_held_is_taken_over_once_its_lease_has_ended(aws: FakeAws, later: bool) -> None:
    store(aws, stored_0_1.LOCK_HELD, later=later)

    lock = acquire(content(stored_0_1.LOCK_HELD), "other", "other", clock=lambda: LEASE_END + 1)

    assert lock.owner == "other"


@is_later
def test_a_lock_that_is_done(aws: FakeAws, later: bool) -> None:
    store(aws, stored_0_1.LOCK_DONE, later=later)

    lock = acquire(content(stored_0_1.LOCK_DONE), "other", "7b2d0f13-run")

    assert lock.owner == "7b2d0f13-run"
    assert lock.result == json.loads(stored_0_1.LOCK_DONE["result"]["S"])
    assert lock.result
    assert lock.result["key"] == "ingest/echo/日本.csv"


# --- etl ---


@pytest.fixture
def extracted(aws: FakeAws) -> None:
    """The run `r` after `extract`, by version 0.1."""
    aws.s3.put(stored_0_1.BATCH_KEY, gzip.compress(stored_0_1.BATCH_LINES.encode()))
    aws.s3.put(stored_0_1.EXTRACT_KEY, stored_0_1.EXTRACT_BODY.encode())
    store(aws, stored_0_1.EXTRACT_RECORD)


@pytest.mark.usefixtures("extracted")
@is_later
def test_a_checkpoint(aws: FakeAws, later: bool) -> None:
    store(aws, stored_0_1.EXTRACT_RECORD, later=later)

    finished, extracted = load_checkpoint("r", "extract")

    assert finished
    assert extracted == json.loads(stored_0_1.EXTRACT_BODY)


@pytest.mark.usefixtures("extracted")
@is_later
def test_a_file_in_the_body_of_a_checkpoint(later: bool) -> None:
    document = {**json.loads(stored_0_1.EXTRACT_BODY)["batches"][0], **({"later": 1} if later else {})}

    file = read_stored(StoredFile, document)

    assert (file.name, file.key, file.rows) == ("batch-00000", stored_0_1.BATCH_KEY, 3)
    assert list(read_file(file)) == stored_0_1.BATCH_LINES.encode().splitlines()


@is_later
def test_records_in_an_extracted_batch(later: bool) -> None:
    lines = stored_0_1.BATCH_LINES.splitlines()

    assert [record_from_json(read(line, later=later)) for line in lines] == [
        Row("datasets/sales/a.csv", 2, {"id": "007", "amount": "1.10", "day": "2026-11-22"}),
        Row("datasets/sales/b.jsonl", 1, {"id": 8, "amount": Decimal("12345678901234567890.10")}),
        Reject(
            "datasets/sales/b.jsonl",
            2,
            "not JSON: Expecting property name enclosed in double quotes or '}' at column 2",
            "{oops",
        ),
    ]


@pytest.mark.usefixtures("extracted")
def test_a_run_is_transformed_from_what_was_extracted() -> None:
    assert transform.handler({"run_id": "r", "batch": 0}, CONTEXT) == {"rows": 2, "rejected": 1}


# --- batch ---


@is_later
def test_the_input_of_a_batch_for_a_function(later: bool) -> None:
    batch = FunctionBatch.from_input(read(stored_0_1.FUNCTION_BATCH, later=later))

    assert batch == FunctionBatch(
        batch_id="01b0:1:1:0:0",
        query_id="01b0",
        digest="d",
        row_count=2,
        chunk_rows=4096,
        chunks=1,
        function="echo",
        rows='[["é",1.10],[null,12345678901234567890]]',
    )
    assert load_rows("e", batch) == [["é", Decimal("1.10")], [None, 12345678901234567890]]


@is_later
def test_the_input_of_a_batch_for_a_workflow(later: bool) -> None:
    assert WorkflowBatch.from_input(read(stored_0_1.WORKFLOW_BATCH, later=later)) == WorkflowBatch(
        batch_id="01b0:1:1:0:2",
        query_id="01b0",
        digest="d",
        row_count=1,
        chunk_rows=1,
        chunks=1,
        workflow="etl",
        documents=[{"dataset_id": "sales", "batch_size": 5}],
        detached=True,
    )


def test_a_field_that_every_version_wrote_must_be_there() -> None:
    document = json.loads(stored_0_1.WORKFLOW_BATCH)
    del document["digest"]
    with pytest.raises(TypeError, match="digest"):
        WorkflowBatch.from_input(document)
