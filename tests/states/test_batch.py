"""Every path of the machine `batch`: one chunk, several, workflows, and each class of errors."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.states.state_machine import DIED, TRANSIENT, Failure, StateMachine, lambda_result

FINAL = ["FunctionError", "States.DataLimitExceeded", "Lambda.ResourceNotFoundException"]
STEP_FUNCTIONS = ["StepFunctions.SdkClientException", "StepFunctions.ThrottlingException"]

# How often each Task is retried for an error, and the state after that.
RETRIES = [
    *[(state, error, 5, "FAILED") for state in ("Process", "Process chunk") for error in TRANSIENT],
    *[(state, error, 1, "FAILED") for state in ("Process", "Process chunk") for error in DIED],
    *[("Collect", error, 4, "FAILED") for error in TRANSIENT + DIED],
    *[("Record", error, 5, "FAILED") for error in TRANSIENT + DIED],
    ("Record", "RunUnfinished", 60, "FAILED"),
    *[("Start run", error, 5, "CAUGHT_ERROR") for error in ["States.Timeout", *STEP_FUNCTIONS]],
    *[("Run", error, 5, "CAUGHT_ERROR") for error in STEP_FUNCTIONS],
]
# Not retried, because Record describes the run itself.
UNCLEAR = [
    ("Run", "StepFunctions.ExecutionAlreadyExistsException"),
    ("Run", "States.TaskFailed"),
    ("Run", "States.Timeout"),
    ("Run", "States.DataLimitExceeded"),
    ("Start run", "StepFunctions.ExecutionAlreadyExistsException"),
]

INPUTS: list[Any] = [{"text": "a"}, {"skip": ["b"], "n": 1.5}, {}]


@pytest.fixture
def batch(machine: Callable[..., StateMachine]) -> StateMachine:
    return machine("batch")


def rows(chunks: int) -> dict[str, Any]:
    """The machine reads only the number of chunks; the rest of the input is passed to `process` unchanged."""
    return {"function": "echo", "chunks": chunks, "rows": [[0, "1.10"], [1, None]]}


def documents(inputs: list[Any], *, detached: bool) -> dict[str, Any]:
    """A batch of rows for a workflow, each row's argument the input of one run."""
    return {"workflow": "pipeline", "chunks": 3, "detached": detached, "documents": inputs}


def chunk_of(arguments: Any) -> int:
    chunk: int = arguments["Payload"]["chunk"]
    return chunk


@pytest.mark.parametrize(
    ("batch_input", "target"),
    [
        (rows(1), "Process"),
        (rows(2), "Process chunks"),
        (rows(4096), "Process chunks"),
        (documents(INPUTS, detached=False), "Run workflow"),
        (documents(INPUTS, detached=True), "Run workflow"),
    ],
)
def test_the_input_chooses_the_path(batch: StateMachine, batch_input: dict[str, Any], target: str) -> None:
    result = batch.test("What to run?", batch_input)

    assert (result.status, result.next_state, result.output) == ("SUCCEEDED", target, batch_input)


# --- rows for a remote function ---


def test_one_chunk_takes_two_states_and_one_call(batch: StateMachine) -> None:
    run = batch.run(rows(1), {"Process": lambda_result({"rows": 2})})

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 2})
    assert run.path == ["What to run?", "Process"]
    [arguments] = run.attempts("Process")
    assert arguments["FunctionName"] == "ProcessFunctionArn"
    assert arguments["Payload"].pop("execution")
    assert arguments["Payload"] == {"batch": rows(1), "chunk": 0, "again": False}


@pytest.mark.parametrize("chunks", [2, 7])
def test_several_chunks_are_each_processed_once_and_then_collected(batch: StateMachine, chunks: int) -> None:
    run = batch.run(rows(chunks), {"Process chunk": lambda_result({}), "Collect": lambda_result({"rows": 9})})

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 9})
    assert run.path == ["What to run?", "Process chunks", "Collect"]
    [collect] = run.attempts("Collect")
    execution = collect["Payload"]["execution"]
    assert collect == {
        "FunctionName": "CollectFunctionArn",
        "Payload": {"execution": execution, "batch": rows(chunks)},
    }
    assert sorted(run.attempts("Process chunk"), key=chunk_of) == [
        {
            "FunctionName": "ProcessFunctionArn",
            "Payload": {"execution": execution, "batch": rows(chunks), "chunk": chunk, "again": False},
        }
        for chunk in range(chunks)
    ]


def test_map_concurrency_is_respected(machine: Callable[..., StateMachine]) -> None:
    one_by_one = machine("batch", MapConcurrency="1")

    run = one_by_one.run(rows(5), {"Process chunk": lambda_result({}), "Collect": lambda_result({})})

    assert list(map(chunk_of, run.attempts("Process chunk"))) == [0, 1, 2, 3, 4]


# --- errors ---


@pytest.mark.parametrize(("state", "error", "retries", "then"), RETRIES)
def test_a_transient_error_is_retried_a_limited_number_of_times(
    batch: StateMachine, state: str, error: str, retries: int, then: str
) -> None:
    failure = Failure(error)

    assert batch.test(state, rows(1), failure=failure, retries=retries - 1).status == "RETRIABLE"
    assert batch.test(state, rows(1), failure=failure, retries=retries).status == then


@pytest.mark.parametrize("error", FINAL)
@pytest.mark.parametrize("state", ["Process", "Process chunk", "Collect", "Record"])
def test_a_final_error_is_not_retried(batch: StateMachine, state: str, error: str) -> None:
    result = batch.test(state, rows(1), failure=Failure(error, "row 3: no"))

    assert (result.status, result.error, result.cause) == ("FAILED", error, "row 3: no")


def test_process_gets_whether_it_is_a_retry(batch: StateMachine) -> None:
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
    collect = [Failure("TransientError"), lambda_result({"rows": 2})]

    run = batch.run(rows(2), {"Process chunk": lambda_result({}), "Collect": collect})

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
    assert run.path == ["What to run?", "Process chunks"]


def test_retries_are_limited(batch: StateMachine) -> None:
    run = batch.run(rows(1), {"Process": Failure("TransientError", "S3 is slow")})

    assert (run.status, run.error, run.cause) == ("FAILED", "TransientError", "S3 is slow")
    assert len(run.tasks) == 6


# --- rows for a workflow ---


def test_each_row_of_a_workflow_is_a_run_whose_output_is_recorded(batch: StateMachine) -> None:
    def run_child(arguments: Any) -> Any:
        return {"Status": "SUCCEEDED", "Output": {"got": arguments["Input"]}}

    answers = {"Run": run_child, "Record": lambda_result(None), "Collect": lambda_result({"rows": 3})}

    run = batch.run(documents(INPUTS, detached=False), answers)

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 3})
    assert run.path == ["What to run?", "Run workflow", "Collect"]
    [collect] = run.attempts("Collect")
    execution = collect["Payload"]["execution"]
    assert collect["Payload"]["batch"] == documents(INPUTS, detached=False)
    assert sorted(run.attempts("Run"), key=lambda call: call["Name"]) == [
        {"StateMachineArn": "StateMachinePrefixpipeline", "Name": f"{execution}-{row}", "Input": document}
        for row, document in enumerate(INPUTS)
    ]
    assert sorted((call["Payload"] for call in run.attempts("Record")), key=lambda event: event["row"]) == [
        {
            "execution": execution,
            "batch": documents([], detached=False),
            "row": row,
            "run": f"{execution}-{row}",
            "outcome": {"output": {"got": document}},
        }
        for row, document in enumerate(INPUTS)
    ]


def test_an_output_that_is_too_large_for_record_is_left_in_the_run(batch: StateMachine) -> None:
    answers = {
        "Run": {"Output": {"text": "é" * 60_000}},
        "Record": lambda_result(None),
        "Collect": lambda_result({"rows": 1}),
    }

    run = batch.run(documents([{}], detached=False), answers)

    assert run.status == "SUCCEEDED"
    [record] = run.attempts("Record")
    assert record["Payload"]["outcome"]["error"] == "States.DataLimitExceeded"


def test_a_detached_row_starts_its_run_and_records_its_handle(batch: StateMachine) -> None:
    def start(arguments: Any) -> Any:
        return {"ExecutionArn": f"arn:{arguments['Name']}", "StartDate": "2026-11-22T00:00:00Z"}

    answers = {"Start run": start, "Record": lambda_result(None), "Collect": lambda_result({})}

    run = batch.run(documents(INPUTS, detached=True), answers)

    assert run.status == "SUCCEEDED"
    machines = [call["StateMachineArn"] for call in run.attempts("Start run")]
    assert machines == ["StateMachinePrefixpipeline"] * 3
    records = [record["Payload"] for record in run.attempts("Record")]
    assert sorted(record["row"] for record in records) == [0, 1, 2]
    assert all(record["outcome"] == {"output": f"arn:{record['run']}"} for record in records)


@pytest.mark.parametrize(("state", "detached"), [("Run", False), ("Start run", True)])
def test_a_run_that_fails_is_its_own_row_s_error(batch: StateMachine, state: str, detached: bool) -> None:
    def run_child(arguments: Any) -> Any:
        if arguments["Input"] == INPUTS[1]:
            return Failure("States.TaskFailed", "no such language")
        return {"Output": 1, "ExecutionArn": "arn"}

    answers = {state: run_child, "Record": lambda_result(None), "Collect": lambda_result({})}

    run = batch.run(documents(INPUTS, detached=detached), answers)

    assert run.status == "SUCCEEDED"
    assert len(run.attempts(state)) == 3
    outcomes = {record["Payload"]["row"]: record["Payload"]["outcome"] for record in run.attempts("Record")}
    assert outcomes[1] == {"error": "States.TaskFailed", "cause": "no such language"}
    assert all("output" in outcomes[row] for row in (0, 2))


@pytest.mark.parametrize(("state", "error"), UNCLEAR)
def test_an_unclear_outcome_of_a_run_is_passed_to_record(batch: StateMachine, state: str, error: str) -> None:
    result = batch.test(state, {}, failure=Failure(error))

    assert (result.status, result.next_state) == ("CAUGHT_ERROR", "Record")


def test_record_waits_for_a_run_that_is_unfinished(batch: StateMachine) -> None:
    answers = {
        "Run": Failure("StepFunctions.ExecutionAlreadyExistsException"),
        "Record": [Failure("RunUnfinished"), Failure("RunUnfinished"), lambda_result(None)],
        "Collect": lambda_result({"rows": 1}),
    }

    run = batch.run(documents([{}], detached=False), answers)

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 1})
    assert len(run.attempts("Run")) == 1
    assert run.attempts("Record") == [run.attempts("Record")[0]] * 3
