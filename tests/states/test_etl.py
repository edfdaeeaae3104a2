"""Every path of the machine `etl`: the dataset that arrives late, the waits, the approval, the errors."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.states.state_machine import (
    DIED,
    TASK_TOKEN,
    THROTTLED,
    TRANSIENT,
    Failure,
    StateMachine,
    lambda_result,
)

FINAL = [
    "DatasetError",
    "RunConflict",
    "StoredFileError",
    "VerificationError",
    "CheckpointError",
    "Lambda.ResourceNotFoundException",
]
LAMBDAS = ["Extract", "Transform batch", "Schedule", "Load", "Verify rows", "Verify rejects"]

PAST = "2026-01-01T03:00:00Z"
INPUT = {"dataset_id": "sales", "batch_size": 2}
LOADED = {
    "prefix": "loads/sales/1/",
    "manifest": "loads/sales/1/manifest.json",
    "files": 2,
    "rows": 5,
    "rejected": 1,
}


def extracted(**changes: Any) -> dict[str, Any]:
    answer = {
        "arrived": True,
        "run_id": "r",
        "dataset_id": "sales",
        "batches": 3,
        "transform_at": PAST,
        "approval": False,
    }
    return lambda_result({**answer, **changes})


def verified(arguments: Any) -> Any:
    return lambda_result(
        {"files": 1, "rows": 5 if arguments["Payload"]["kind"] == "data" else 1, "rows_sha256": "f"}
    )


ANSWERS = {
    "Extract": extracted(),
    "Transform batch": lambda_result({"rows": 2, "rejected": 1}),
    "Schedule": lambda_result({"load_at": PAST}),
    "Load": lambda_result(LOADED),
    "Verify rows": verified,
    "Verify rejects": verified,
}

FROM_START = ["Extract", "Arrived?", "Wait for rate limit", "Transform", "Approval?"]
TO_END = ["Schedule", "Wait until off-peak", "Load", "Verify", "Loaded"]


@pytest.fixture
def etl(machine: Callable[..., StateMachine]) -> StateMachine:
    return machine("etl")


def test_a_run_passes_through_all_states(etl: StateMachine) -> None:
    run = etl.run(INPUT, ANSWERS)

    assert run.status == "SUCCEEDED"
    assert run.path == FROM_START + TO_END
    assert run.output == {
        "run_id": "r",
        "dataset_id": "sales",
        **LOADED,
        "verified": {
            "data": {"files": 1, "rows": 5, "rows_sha256": "f"},
            "rejects": {"files": 1, "rows": 1, "rows_sha256": "f"},
        },
    }


def test_each_step_gets_the_run_id_and_its_own_arguments(etl: StateMachine) -> None:
    run = etl.run(INPUT, ANSWERS)

    [extract] = run.attempts("Extract")
    assert extract["FunctionName"] == "ExtractFunctionArn"
    assert extract["Payload"].pop("run_id")
    assert extract["Payload"] == {"input": INPUT, "attempts": 0}
    batches = [attempt["Payload"] for attempt in run.attempts("Transform batch")]
    assert sorted(batches, key=lambda payload: payload["batch"]) == [
        {"run_id": "r", "batch": n} for n in range(3)
    ]
    assert [attempt["Payload"] for attempt in run.attempts("Schedule")] == [{"run_id": "r", "approval": None}]
    assert [attempt["Payload"] for attempt in run.attempts("Load")] == [{"run_id": "r"}]
    assert [attempt["Payload"] for attempt in run.attempts("Verify rows")] == [
        {"run_id": "r", "kind": "data"}
    ]
    assert [attempt["Payload"] for attempt in run.attempts("Verify rejects")] == [
        {"run_id": "r", "kind": "rejects"}
    ]


def test_without_a_run_id_it_is_the_execution_s_name(etl: StateMachine) -> None:
    [named] = etl.run({**INPUT, "run_id": "earlier"}, ANSWERS).attempts("Extract")
    assert named["Payload"]["run_id"] == "earlier"
    ids = {etl.run(INPUT, ANSWERS).attempts("Extract")[0]["Payload"]["run_id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_map_runs_a_single_batch_too(etl: StateMachine) -> None:
    run = etl.run(INPUT, {**ANSWERS, "Extract": extracted(batches=1)})

    assert run.status == "SUCCEEDED"
    assert len(run.attempts("Transform batch")) == 1


def test_extract_is_repeated_until_the_dataset_has_arrived(etl: StateMachine) -> None:
    missing = [lambda_result({"arrived": False, "attempts": n, "retry_seconds": 36}) for n in (1, 2)]
    run = etl.run(INPUT, {**ANSWERS, "Extract": [*missing, extracted()]})

    assert run.status == "SUCCEEDED"
    assert run.path == ["Extract", "Arrived?", "Wait for dataset"] * 2 + FROM_START + TO_END
    payloads = [attempt["Payload"] for attempt in run.attempts("Extract")]
    assert [payload["attempts"] for payload in payloads] == [0, 1, 2]
    assert len({payload["run_id"] for payload in payloads}) == 1
    assert all(payload["input"] == INPUT for payload in payloads)


WAITS = [
    ("Wait for dataset", "retry_seconds", 0, 1.5, "Extract"),
    ("Wait for rate limit", "transform_at", PAST, "soon", "Transform"),
    ("Wait until off-peak", "load_at", PAST, "tonight", "Load"),
]


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait[0])
def test_a_wait_is_as_long_as_the_step_before_it_returned(etl: StateMachine, wait: Any) -> None:
    state, member, good, bad, after = wait
    assert etl.test(state, {member: good}, variables={"run": {member: good}}).next_state == after
    # The engine's error names the value that is not a time.
    result = etl.test(state, {member: bad}, variables={"run": {member: bad}})
    assert result.error == "States.QueryEvaluationError"
    assert str(bad) in str(result.cause)


# --- approval ---


@pytest.mark.parametrize("answer", [{"approved": True, "by": "somebody"}, {"approved": False}, "yes"])
def test_an_approver_is_sent_what_is_loaded_and_the_answer_is_recorded(
    etl: StateMachine, answer: Any
) -> None:
    run = etl.run(INPUT, {**ANSWERS, "Extract": extracted(approval=True), "Ask for approval": answer})

    assert run.path == [*FROM_START, "Ask for approval", *TO_END]
    [request] = run.attempts("Ask for approval")
    assert request["QueueUrl"] == "ApprovalQueueUrl"
    assert ":execution:" in request["MessageBody"].pop("execution")
    assert request["MessageBody"] == {
        "workflow": "etl",
        "run_id": "r",
        "dataset_id": "sales",
        "rows": 6,
        "rejected": 3,
        "task_token": TASK_TOKEN,
    }
    # Schedule decides whether that is an approval.
    assert [attempt["Payload"]["approval"] for attempt in run.attempts("Schedule")] == [answer]


@pytest.mark.parametrize(
    "failure",
    [Failure("ApprovalRefused", "the numbers are wrong"), Failure("States.Timeout", "a week is over")],
)
def test_without_an_approval_nothing_is_loaded(etl: StateMachine, failure: Failure) -> None:
    run = etl.run(INPUT, {**ANSWERS, "Extract": extracted(approval=True), "Ask for approval": failure})

    assert (run.status, run.error, run.cause) == ("FAILED", failure.error, failure.cause)
    assert run.path == [*FROM_START, "Ask for approval"]


@pytest.mark.parametrize("error", ["SQS.SdkClientException", "SQS.AmazonSQSException"])
def test_a_queue_that_does_not_take_the_request_is_retried(etl: StateMachine, error: str) -> None:
    answers = {**ANSWERS, "Extract": extracted(approval=True)}
    once = [Failure(error), {"approved": True}]
    assert etl.run(INPUT, {**answers, "Ask for approval": once}).status == "SUCCEEDED"

    run = etl.run(INPUT, {**answers, "Ask for approval": Failure(error)})
    assert (run.error, len(run.attempts("Ask for approval"))) == (error, 6)


# --- errors ---


@pytest.mark.parametrize("error", TRANSIENT + DIED)
@pytest.mark.parametrize("state", LAMBDAS)
def test_a_transient_error_is_retried_four_times(etl: StateMachine, state: str, error: str) -> None:
    assert etl.test(state, {}, failure=Failure(error), retries=3).status == "RETRIABLE"
    assert etl.test(state, {}, failure=Failure(error), retries=4).status == "FAILED"


@pytest.mark.parametrize("state", LAMBDAS)
def test_a_throttled_lambda_is_tried_for_minutes(etl: StateMachine, state: str) -> None:
    assert etl.test(state, {}, failure=Failure(THROTTLED), retries=34).status == "RETRIABLE"
    assert etl.test(state, {}, failure=Failure(THROTTLED), retries=35).status == "FAILED"


@pytest.mark.parametrize("state", LAMBDAS)
def test_a_step_that_fails_once_is_retried_and_the_run_succeeds(etl: StateMachine, state: str) -> None:
    answer = ANSWERS[state]
    failed: list[Any] = []

    def once(arguments: Any) -> Any:
        failed.append(arguments)
        if len(failed) == 1:
            return Failure("TransientError")
        return answer(arguments) if callable(answer) else answer

    run = etl.run(INPUT, {**ANSWERS, state: once})

    assert run.status == "SUCCEEDED"
    assert failed[0] in failed[1:]


@pytest.mark.parametrize("error", FINAL)
@pytest.mark.parametrize("state", LAMBDAS)
def test_a_final_error_ends_the_run_with_its_name(etl: StateMachine, state: str, error: str) -> None:
    assert etl.test(state, {}, failure=Failure(error)).status == "FAILED"


@pytest.mark.parametrize("state", LAMBDAS)
def test_a_failed_run_has_the_error_and_stops_there(etl: StateMachine, state: str) -> None:
    run = etl.run(INPUT, {**ANSWERS, state: Failure("DatasetError", "datasets/sales/a.csv is bad")})

    assert (run.status, run.error, run.cause) == ("FAILED", "DatasetError", "datasets/sales/a.csv is bad")
    assert "Loaded" not in run.path
