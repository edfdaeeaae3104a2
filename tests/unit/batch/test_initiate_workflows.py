"""POST /workflows/{name}: each row is checked, and the batch machine gets one document for each run."""

import json
from decimal import Decimal
from typing import Any

import pytest

from batch import initiate
from core.executions import MAX_PAYLOAD_BYTES, execution_name
from tests.unit.batch.machine import only_execution
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.invocations import BATCH_ID, post_event

Answer = tuple[int, Any]


def send(name: str, rows: list[list[Any]], **headers: str) -> Answer:
    """The status and the parsed body of the answer. `headers`: with _ for -."""
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    event = post_event(name, rows, kind="workflows", headers=sent)
    answer = initiate.handler(event, CONTEXT)
    return answer["statusCode"], json.loads(answer["body"])


def test_a_batch_is_one_execution_with_all_documents(aws: FakeAws) -> None:
    documents = [{"dataset_id": "a"}, {"dataset_id": "b", "batch_size": 5}]
    status, body = send("etl", [[document] for document in documents])

    name = execution_name("workflows", "etl", BATCH_ID)
    assert (status, body) == (202, {"status": "running", "execution": name})
    started = json.loads(only_execution(aws).input)
    assert started["documents"] == documents
    assert (started["workflow"], started["row_count"], started["chunks"], started["chunk_rows"]) == (
        "etl",
        2,
        2,
        1,
    )
    assert started["detached"] is False
    assert aws.s3.objects == {}


@pytest.mark.parametrize(("mode", "detached"), [("detached", True), ("attached", False)])
def test_the_mode_is_a_header(aws: FakeAws, mode: str, detached: bool) -> None:
    send("etl", [[{"dataset_id": "a"}]], sf_custom_mode=mode)
    assert json.loads(only_execution(aws).input)["detached"] is detached


def test_a_whole_number_in_snowflake_s_float_notation_becomes_an_integer(aws: FakeAws) -> None:
    send("etl", [[{"dataset_id": "a", "batch_size": Decimal("1.000000000000000e+01")}]])
    assert '"batch_size":10}' in only_execution(aws).input


def test_a_repeated_post_starts_nothing(aws: FakeAws) -> None:
    for _ in range(3):
        assert send("etl", [[{"dataset_id": "a"}]])[0] == 202
    assert only_execution(aws).status == "RUNNING"


def test_the_same_id_with_other_documents_is_a_conflict(aws: FakeAws) -> None:
    send("etl", [[{"dataset_id": "a"}]])
    status, body = send("etl", [[{"dataset_id": "b"}]])
    assert (status, body["error"]) == (409, "BatchConflict")


def test_no_rows_need_no_run(aws: FakeAws) -> None:
    assert initiate.handler(post_event("etl", [], kind="workflows"), CONTEXT)["statusCode"] == 200
    assert aws.step_functions.executions == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([{"dataset_id": 3}], "row 1, at $.dataset_id: 3 is not of type 'string'"),
        ([{}], "row 1, at $: 'dataset_id' is a required property"),
        ([None], "row 1, at $: null is not of type 'object'"),
        ([], "row 1 has 0 arguments; a workflow takes one, its input"),
        ([{"dataset_id": "a"}, 1], "row 1 has 2 arguments; a workflow takes one, its input"),
    ],
)
def test_a_bad_row_is_named_and_no_run_starts(aws: FakeAws, row: list[Any], message: str) -> None:
    status, body = send("etl", [[{"dataset_id": "a"}], row])
    assert (status, body) == (400, {"error": "BadRequest", "message": message})
    assert aws.step_functions.executions == {}


def test_another_mode_is_refused(aws: FakeAws) -> None:
    status, body = send("etl", [[{"dataset_id": "a"}]], sf_custom_mode="later")
    assert status == 400
    assert body["message"] == "header sf-custom-mode is 'later'; it is 'detached', or left out"


def test_an_unknown_workflow_is_404_with_the_known_ones(aws: FakeAws) -> None:
    status, body = send("echo", [["a"]])
    assert (status, body["error"]) == (404, "UnknownTarget")
    assert body["message"] == "there is no workflow 'echo'; there are: etl, fan_out, ingest, pipeline"


def test_at_most_as_many_runs_as_fit_a_history(aws: FakeAws) -> None:
    rows = [[{"dataset_id": "a"}]] * initiate.MAX_RUNS
    status, body = send("etl", [*rows, *rows[:1]])
    assert (status, body["error"]) == (413, "RequestTooLarge")
    assert "MAX_BATCH_ROWS" in body["message"]
    assert send("etl", rows)[0] == 202
    assert len(f"{execution_name('workflows', 'etl', BATCH_ID)}-{len(rows) - 1}") <= 80


def test_at_most_as_many_bytes_as_fit_a_payload(aws: FakeAws) -> None:
    def rows(length: int) -> list[list[Any]]:
        return [[{"names": [{"name": "é" * length}]}]]

    status, body = send("fan_out", rows(MAX_PAYLOAD_BYTES // 2))
    assert (status, body["error"]) == (413, "RequestTooLarge")
    assert send("fan_out", rows(MAX_PAYLOAD_BYTES // 2 - 3000))[0] == 202
    assert len(only_execution(aws).input.encode()) < MAX_PAYLOAD_BYTES
