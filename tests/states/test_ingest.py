"""Every path of the machine `ingest`: locked or not, one call or several, the errors, the release."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.states.state_machine import DIED, THROTTLED, TRANSIENT, Failure, StateMachine, lambda_result

INPUT = {"key": "ingest/sentiment/日 本+.csv", "etag": "e1", "size": 9, "sequencer": "0055"}
OBJECT = {
    "content": {"bucket": "b", "key": INPUT["key"], "etag": "e1", "version_id": None},
    "content_type": "text/csv",
    "bytes": 9,
}
RESULT = {"outcome": "processed", "key": INPUT["key"], "rows": 3}
LOCKED = lambda_result({"outcome": "locked", "object": OBJECT})
MORE = lambda_result({"finished": False, "result": None})
DONE = lambda_result({"finished": True, "result": RESULT})


@pytest.fixture
def ingest(machine: Callable[..., StateMachine]) -> StateMachine:
    return machine("ingest")


def test_a_locked_object_is_ingested_and_completed(ingest: StateMachine) -> None:
    run = ingest.run(INPUT, {"Lock": LOCKED, "Ingest": DONE, "Complete": lambda_result(RESULT)})

    assert (run.status, run.output) == ("SUCCEEDED", RESULT)
    assert run.path == ["Lock", "Locked?", "Ingest", "Finished?", "Complete"]
    [lock], [work], [complete] = (run.attempts(state) for state in ("Lock", "Ingest", "Complete"))
    owner = lock["Payload"]["owner"]
    assert owner
    assert lock == {
        "FunctionName": "LockFunctionArn",
        "Payload": {"input": INPUT, "owner": owner, "run_id": owner},
    }
    assert work == {
        "FunctionName": "IngestFunctionArn",
        "Payload": {"object": OBJECT, "owner": owner, "run_id": owner},
    }
    assert complete == {
        "FunctionName": "UnlockFunctionArn",
        "Payload": {"object": OBJECT, "owner": owner, "run_id": owner, "result": RESULT},
    }


def test_a_resumed_run_names_the_run_whose_lock_it_may_take(ingest: StateMachine) -> None:
    nothing = lambda_result({"outcome": "skipped"})

    run = ingest.run({**INPUT, "run_id": "first"}, {"Lock": nothing})

    [lock] = run.attempts("Lock")
    assert lock["Payload"]["run_id"] == "first"
    assert lock["Payload"]["owner"] != "first"


def test_each_step_of_a_resumed_run_has_the_run_id(ingest: StateMachine) -> None:
    answers = {"Lock": LOCKED, "Ingest": DONE, "Complete": lambda_result(RESULT)}
    failing = {**answers, "Ingest": Failure("RowError", "{}"), "Release": lambda_result(None)}

    for given in (answers, failing):
        run = ingest.run({**INPUT, "run_id": "first"}, given)

        payloads = [attempt["Payload"] for state in given for attempt in run.attempts(state)]
        assert [payload["run_id"] for payload in payloads] == ["first"] * 3


@pytest.mark.parametrize("outcome", ["skipped", "held", "gone"])
def test_without_the_lock_nothing_is_ingested(ingest: StateMachine, outcome: str) -> None:
    answer = {"outcome": outcome, "key": INPUT["key"], "message": "why"}

    run = ingest.run(INPUT, {"Lock": lambda_result(answer)})

    assert (run.status, run.output) == ("SUCCEEDED", answer)
    assert run.path == ["Lock", "Locked?", "Nothing to do"]


def test_a_large_object_takes_several_calls(ingest: StateMachine) -> None:
    answers = {"Lock": LOCKED, "Ingest": [MORE, MORE, DONE], "Complete": lambda_result(RESULT)}

    run = ingest.run(INPUT, answers)

    assert (run.status, run.output) == ("SUCCEEDED", RESULT)
    calls = run.attempts("Ingest")
    assert len(calls) == 3
    assert calls[0] == calls[1] == calls[2]


@pytest.mark.parametrize("error", ["TransientError", "Lambda.Unknown"])
@pytest.mark.parametrize("state", ["Lock", "Ingest", "Complete"])
def test_a_transient_error_is_retried(ingest: StateMachine, state: str, error: str) -> None:
    answers: dict[str, Any] = {"Lock": LOCKED, "Ingest": DONE, "Complete": lambda_result(RESULT)}
    answers[state] = [Failure(error), Failure(error), answers[state]]

    run = ingest.run(INPUT, answers)

    assert (run.status, run.output) == ("SUCCEEDED", RESULT)


@pytest.mark.parametrize(
    ("state", "error", "retries"),
    [
        *(("Lock", error, 4) for error in (*TRANSIENT, *DIED)),
        *(("Complete", error, 4) for error in (*TRANSIENT, *DIED)),
        ("Lock", THROTTLED, 35),
        ("Complete", THROTTLED, 35),
    ],
)
def test_an_error_that_persists_fails_the_state_at_which_a_redrive_starts(
    ingest: StateMachine, state: str, error: str, retries: int
) -> None:
    failure = Failure(error)

    assert ingest.test(state, INPUT, failure=failure, retries=retries - 1).status == "RETRIABLE"
    assert ingest.test(state, INPUT, failure=failure, retries=retries).status == "FAILED"


@pytest.mark.parametrize("state", ["Lock", "Complete"])
@pytest.mark.parametrize("error", ["LockLost", "ObjectError"])
def test_a_final_error_is_not_retried(ingest: StateMachine, state: str, error: str) -> None:
    result = ingest.test(state, INPUT, failure=Failure(error, "why"))

    assert (result.status, result.error, result.cause) == ("FAILED", error, "why")


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ('{"errorMessage": "line 3: not CSV", "errorType": "RowError", "stackTrace": []}', "line 3: not CSV"),
        ('{"errorType": "RowError", "errorMessage": "said \\"why\\""}', 'said "why"'),
        ("not a document", "not a document"),
        ('["errorMessage"]', '["errorMessage"]'),
        ("", ""),
    ],
)
def test_a_failure_releases_the_lock_and_names_error_and_object(
    ingest: StateMachine, cause: str, message: str
) -> None:
    run = ingest.run(
        INPUT, {"Lock": LOCKED, "Ingest": Failure("RowError", cause), "Release": lambda_result(None)}
    )

    assert (run.status, run.error) == ("FAILED", "RowError")
    assert run.cause == f"s3://b/{INPUT['key']}: {message}"
    assert run.path == ["Lock", "Locked?", "Ingest", "Release", "Failed"]
    [release] = run.attempts("Release")
    owner = run.attempts("Lock")[0]["Payload"]["owner"]
    assert release == {
        "FunctionName": "UnlockFunctionArn",
        "Payload": {"object": OBJECT, "owner": owner, "run_id": owner, "result": None},
    }


@pytest.mark.parametrize(
    ("error", "attempts"),
    [*((error, 6) for error in TRANSIENT), *((error, 3) for error in DIED), (THROTTLED, 36)],
)
def test_a_worker_that_keeps_failing_releases_the_lock(
    ingest: StateMachine, error: str, attempts: int
) -> None:
    run = ingest.run(INPUT, {"Lock": LOCKED, "Ingest": Failure(error), "Release": lambda_result(None)})

    assert (run.status, run.error) == ("FAILED", error)
    assert len(run.attempts("Ingest")) == attempts
    assert len(run.attempts("Release")) == 1


def test_a_release_that_fails_does_not_hide_why_the_work_failed(ingest: StateMachine) -> None:
    failure = Failure("RowError", json.dumps({"errorMessage": "line 3"}))

    run = ingest.run(INPUT, {"Lock": LOCKED, "Ingest": failure, "Release": Failure("AccessDenied")})

    assert (run.status, run.error, run.cause) == ("FAILED", "RowError", f"s3://b/{INPUT['key']}: line 3")
