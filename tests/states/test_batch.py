"""Every path of the machine `batch`: one chunk, several, each class of errors, what a retry is told."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.states.state_machine import Failure, StateMachine, lambda_result

TRANSIENT = [
    "TransientError",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
]
# The Lambda process ended, or ran out of time: the same rows may do it again, so once more is enough.
DIED = ["States.Timeout", "Sandbox.Timedout", "Runtime.ExitError", "Lambda.Unknown"]
FINAL = ["FunctionError", "States.DataLimitExceeded", "Lambda.ResourceNotFoundException"]

# How often each Task is retried for an error.
RETRIES = [
    *[(state, error, 5) for state in ("Process", "Process chunk") for error in TRANSIENT],
    *[(state, error, 1) for state in ("Process", "Process chunk") for error in DIED],
    *[("Collect", error, 4) for error in TRANSIENT + DIED],
]


@pytest.fixture
def batch(machine: Callable[..., StateMachine]) -> StateMachine:
    return machine("batch")


def rows(chunks: int) -> dict[str, Any]:
    """The machine reads only the number of chunks; what else is in the input goes to `process` as it is."""
    return {"function": "echo", "chunks": chunks, "rows": [[0, "1.10"], [1, None]]}


def chunk_of(arguments: Any) -> int:
    chunk: int = arguments["Payload"]["chunk"]
    return chunk


def test_one_chunk_takes_two_states_and_one_call(batch: StateMachine) -> None:
    run = batch.run(rows(1), {"Process": lambda_result({"rows": 2})})

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 2})
    assert run.path == ["One chunk?", "Process"]
    [arguments] = run.attempts("Process")
    assert arguments["FunctionName"] == "ProcessFunctionArn"
    assert arguments["Payload"]["execution"]
    del arguments["Payload"]["execution"]
    assert arguments["Payload"] == {"batch": rows(1), "chunk": 0, "again": False}


@pytest.mark.parametrize("chunks", [2, 7])
def test_several_chunks_are_each_processed_once_and_then_collected(batch: StateMachine, chunks: int) -> None:
    run = batch.run(rows(chunks), {"Process chunk": lambda_result({}), "Collect": lambda_result({"rows": 9})})

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 9})
    assert run.path == ["One chunk?", "Process chunks", "Collect"]
    calls = run.attempts("Process chunk")
    assert sorted(map(chunk_of, calls)) == list(range(chunks))
    executions = {call["Payload"].pop("execution") for call in calls}
    assert all(
        call == {
            "FunctionName": "ProcessFunctionArn",
            "Payload": {"batch": rows(chunks), "chunk": chunk_of(call), "again": False},
        }
        for call in calls
    )  # fmt: skip
    [execution] = executions
    assert run.attempts("Collect") == [
        {"FunctionName": "CollectFunctionArn", "Payload": {"execution": execution, "batch": rows(chunks)}}
    ]


def test_map_concurrency_holds(machine: Callable[..., StateMachine]) -> None:
    one_by_one = machine("batch", MapConcurrency="1")

    run = one_by_one.run(rows(5), {"Process chunk": lambda_result({}), "Collect": lambda_result({})})

    assert list(map(chunk_of, run.attempts("Process chunk"))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("chunks", "target"), [(1, "Process"), (2, "Process chunks"), (4096, "Process chunks")]
)
def test_the_number_of_chunks_chooses_the_path(batch: StateMachine, chunks: int, target: str) -> None:
    result = batch.test("One chunk?", rows(chunks))

    assert (result.status, result.next_state, result.output) == ("SUCCEEDED", target, rows(chunks))


@pytest.mark.parametrize(("state", "error", "retries"), RETRIES)
def test_what_may_pass_is_retried_so_often_and_no_more(
    batch: StateMachine, state: str, error: str, retries: int
) -> None:
    failure = Failure(error)

    assert batch.test(state, rows(1), failure=failure, retries=retries - 1).status == "RETRIABLE"
    assert batch.test(state, rows(1), failure=failure, retries=retries).status == "FAILED"


@pytest.mark.parametrize("error", FINAL)
@pytest.mark.parametrize("state", ["Process", "Process chunk", "Collect"])
def test_what_won_t_pass_is_not_retried(batch: StateMachine, state: str, error: str) -> None:
    result = batch.test(state, rows(1), failure=Failure(error, "row 3: no"))

    assert (result.status, result.error, result.cause) == ("FAILED", error, "row 3: no")


def test_process_is_told_of_a_retry(batch: StateMachine) -> None:
    answers = [Failure("TransientError"), Failure("Lambda.Unknown"), lambda_result({"rows": 2})]

    run = batch.run(rows(1), {"Process": answers})

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 2})
    assert [arguments["Payload"]["again"] for arguments in run.attempts("Process")] == [False, True, True]


def test_a_chunk_that_fails_is_retried_alone(batch: StateMachine) -> None:
    def process(arguments: Any) -> Any:
        if chunk_of(arguments) == 1 and not arguments["Payload"]["again"]:
            return Failure("Runtime.ExitError")
        return lambda_result({})

    run = batch.run(rows(3), {"Process chunk": process, "Collect": lambda_result({"rows": 2})})

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 2})
    assert Counter(map(chunk_of, run.attempts("Process chunk"))) == {0: 1, 1: 2, 2: 1}
    assert {chunk_of(call) for call in run.attempts("Process chunk") if call["Payload"]["again"]} == {1}


def test_collect_is_retried_without_the_chunks(batch: StateMachine) -> None:
    run = batch.run(
        rows(2),
        {
            "Process chunk": lambda_result({}),
            "Collect": [Failure("TransientError"), lambda_result({"rows": 2})],
        },
    )

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 2})
    assert (len(run.attempts("Process chunk")), len(run.attempts("Collect"))) == (2, 2)


def test_a_failure_ends_the_run_with_its_error_and_cause(batch: StateMachine) -> None:
    run = batch.run(rows(1), {"Process": Failure("FunctionError", "row 3: no")})

    assert (run.status, run.error, run.cause) == ("FAILED", "FunctionError", "row 3: no")
    assert len(run.tasks) == 1


def test_a_failed_chunk_ends_the_run_with_its_error_and_cause(batch: StateMachine) -> None:
    def process(arguments: Any) -> Any:
        return Failure("FunctionError", "row 900: no") if chunk_of(arguments) == 1 else lambda_result({})

    run = batch.run(rows(3), {"Process chunk": process})

    assert (run.status, run.error, run.cause) == ("FAILED", "FunctionError", "row 900: no")
    assert run.path == ["One chunk?", "Process chunks"]


def test_retries_come_to_an_end(batch: StateMachine) -> None:
    run = batch.run(rows(1), {"Process": Failure("TransientError", "S3 is slow")})

    assert (run.status, run.error, run.cause) == ("FAILED", "TransientError", "S3 is slow")
    assert len(run.tasks) == 6
