"""Every path of the machine `batch`: one chunk, several, workflows, and each class of errors."""

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.states.state_machine import (
    DIED,
    RATE_LIMITED,
    THROTTLED,
    TRANSIENT,
    UNLOADABLE,
    Failure,
    StateMachine,
    lambda_result,
)

FINAL = [
    "FunctionError",
    "RateLimitExceeded",
    "States.DataLimitExceeded",
    "Lambda.ResourceNotFoundException",
    *UNLOADABLE,
]
# A throttled StartExecution has no name of its own.
STEP_FUNCTIONS = [
    "StepFunctions.SdkClientException",
    "StepFunctions.AWSStepFunctionsException",
    "StepFunctions.ExecutionLimitExceededException",
]

# How often each Task is retried for an error, and the state after that.
RETRIES = [
    *[(state, error, 5, "FAILED") for state in ("Process", "Process chunk") for error in TRANSIENT],
    *[(state, error, 1, "FAILED") for state in ("Process", "Process chunk") for error in DIED],
    *[("Collect", error, 4, "FAILED") for error in TRANSIENT + DIED],
    *[("Record", error, 5, "FAILED") for error in TRANSIENT + DIED],
    ("Record", "RunUnfinished", 200, "FAILED"),
    *[(state, THROTTLED, 35, "FAILED") for state in ("Process", "Process chunk", "Collect", "Record")],
    *[(state, RATE_LIMITED, 35, "FAILED") for state in ("Process", "Process chunk")],
    *[("Start run", error, 4, "CAUGHT_ERROR") for error in ["States.Timeout", *STEP_FUNCTIONS]],
    *[("Run", error, 4, "CAUGHT_ERROR") for error in STEP_FUNCTIONS],
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
    assert arguments["Payload"].pop("until")
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
        "Payload": {"execution": execution, "batch": rows(chunks), "not_started": []},
    }
    calls = sorted(run.attempts("Process chunk"), key=chunk_of)
    assert len({call["Payload"].pop("until") for call in calls}) == 1
    assert calls == [
        {
            "FunctionName": "ProcessFunctionArn",
            "Payload": {"execution": execution, "batch": rows(chunks), "chunk": chunk, "again": False},
        }
        for chunk in range(chunks)
    ]


@pytest.mark.parametrize(("state", "chunks"), [("Process", 1), ("Process chunk", 2)])
def test_process_gets_when_the_batches_time_ends_and_its_retries_get_the_same(
    batch: StateMachine, state: str, chunks: int
) -> None:
    def process(arguments: Any) -> Any:
        return lambda_result({}) if arguments["Payload"]["again"] else Failure(RATE_LIMITED)

    began = time.time()
    run = batch.run(rows(chunks), {state: process, "Collect": lambda_result({})})
    ended = time.time()

    assert run.status == "SUCCEEDED"
    assert len(run.attempts(state)) == 2 * chunks
    [until] = {arguments["Payload"]["until"] for arguments in run.attempts(state)}
    limit = batch.definition["TimeoutSeconds"]
    assert began + limit - 11 < until / 1000 < ended + limit - 10


@pytest.mark.parametrize("state", ["Process", "Process chunk"])
def test_a_batch_that_is_redriven_has_its_time_again(batch: StateMachine, state: str) -> None:
    states = batch.definition["States"]
    states = states | states["Process chunks"]["ItemProcessor"]["States"]
    until = states[state]["Arguments"]["Payload"]["until"]
    only = {"Type": "Pass", "Output": until, "End": True}
    machine = StateMachine(batch.client, {**batch.definition, "States": {"Until": only}})
    limit = batch.definition["TimeoutSeconds"]

    def seconds_left(**times: float) -> float:
        result = machine.test("Until", {}, context=execution(rows(1), **times))
        return float(result.output) / 1000 - time.time()

    assert limit - 40 < seconds_left(age=0) <= limit - 10
    assert limit - 140 < seconds_left(age=100) <= limit - 110
    assert limit - 40 < seconds_left(age=99_999, redriven=0) <= limit - 10


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
    assert collect["Payload"]["not_started"] == []
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
            "until": run.attempts("Record")[0]["Payload"]["until"],
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


# --- the time that the rows of a workflow have ---


def execution(batch_input: dict[str, Any], *, age: float, redriven: float | None = None) -> dict[str, Any]:
    """What the context says of an execution that is `age` seconds old, and of its redrive."""
    then = datetime.now(UTC)
    times = {"StartTime": age} if redriven is None else {"StartTime": age, "RedriveTime": redriven}
    return {
        "Execution": {
            "Input": batch_input,
            **{name: (then - timedelta(seconds=ago)).isoformat() for name, ago in times.items()},
        }
    }


@pytest.mark.parametrize(
    ("rows_in_batch", "concurrency", "last"),
    [(3, "20", 550), (1000, "20", 547), (1000, "1", 500)],
)
@pytest.mark.parametrize("detached", [False, True])
def test_a_run_is_only_started_while_there_is_time_for_it(
    machine: Callable[..., StateMachine], rows_in_batch: int, concurrency: str, last: int, detached: bool
) -> None:
    batch = machine("batch", MapConcurrency=concurrency)
    batch_input = documents([{}] * rows_in_batch, detached=detached)
    item = {"row": 1, "run": "r-1", "document": {}}

    def where_to(age: float, redriven: float | None = None) -> str | None:
        context = execution(batch_input, age=age, redriven=redriven)
        return batch.test("In time?", item, context=context).next_state

    start = "Start run" if detached else "Run"
    assert [where_to(age) for age in (0, last - 30, last + 1, 599)] == [start, start, *["Not started"] * 2]
    assert where_to(99_999, redriven=0) == start
    assert where_to(99_999, redriven=last + 1) == "Not started"


def test_a_run_and_the_search_for_its_end_are_over_before_the_batch_is(batch: StateMachine) -> None:
    answers = {"Run": {"Output": 1}, "Record": lambda_result(None), "Collect": lambda_result({})}
    began = time.time()

    run = batch.run(documents(INPUTS, detached=False), answers)

    ended = time.time()
    limit, limits = batch.definition["TimeoutSeconds"], run.timeouts("Run")
    assert len(limits) == 3
    assert all(limit - 42 - (ended - began) < seconds < limit - 40 for seconds in limits), limits
    assert all(float(seconds).is_integer() for seconds in limits)
    [until] = {record["Payload"]["until"] for record in run.attempts("Record")}
    assert began + limit - 42 < until / 1000 < ended + limit - 40


def test_rows_whose_runs_are_not_started_are_named_to_collect(batch: StateMachine) -> None:
    text = json.dumps(batch.definition).replace("+ 560000", "+ 0")
    late = StateMachine(batch.client, json.loads(text))

    run = late.run(documents(INPUTS, detached=False), {"Collect": lambda_result({"rows": 3})})

    assert (run.status, run.output) == ("SUCCEEDED", {"rows": 3})
    [collect] = run.attempts("Collect")
    assert collect["Payload"]["not_started"] == [0, 1, 2]
    assert collect["Payload"]["batch"] == documents(INPUTS, detached=False)


def test_the_rows_before_one_that_is_late_keep_their_results(batch: StateMachine) -> None:
    definition = json.loads(json.dumps(batch.definition))
    row_machine = definition["States"]["Run workflow"]["ItemProcessor"]
    row_machine["States"]["In time?"]["Choices"][0]["Condition"] = "{% $states.input.row = 2 %}"
    answers = {"Run": {"Output": 1}, "Record": lambda_result(None), "Collect": lambda_result({"rows": 3})}

    run = StateMachine(batch.client, definition).run(documents(INPUTS, detached=False), answers)

    assert run.status == "SUCCEEDED"
    assert sorted(record["Payload"]["row"] for record in run.attempts("Record")) == [0, 1]
    assert run.attempts("Collect")[0]["Payload"]["not_started"] == [2]
