"""RedriveExecution on the engine: the execution continues where it did not succeed, and keeps the rest."""

import json
from functools import partial
from typing import Any

import pytest

from tests.integration.engine.machines import Activity, Machines, code_of, pass_, task
from tests.integration.engine.test_ends import WAIT, map_of, parallel
from tests.runs import wait_for


def redrive(machines: Machines, arn: str, **token: str) -> Any:
    return machines.client.redrive_execution(executionArn=arn, **token)["redriveDate"]


def entered(machines: Machines, arn: str) -> list[str]:
    events = machines.events(arn)
    return [
        event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event
    ]


def test_an_execution_continues_at_the_state_that_failed(machines: Machines, work: Activity) -> None:
    context = "{% $states.context.Execution %}"
    machine = machines.create(
        {
            "First": pass_(Assign={"kept": "{% $states.input.a %}"}, Output={"b": 2}, Next="Work"),
            "Work": {
                "Type": "Task",
                "Resource": work.arn,
                "Arguments": {"kept": "{% $kept %}", "input": "{% $states.input %}", "context": context},
                "Next": "Last",
            },
            "Last": pass_(Output="{% [$kept, $states.input] %}"),
        }
    )
    arn = machines.start(machine, {"a": 1})
    token, first = work.take()
    work.fail(token, "Broken")
    failed = machines.end(arn)
    assert (failed["redriveCount"], failed["redriveStatus"]) == (0, "REDRIVABLE")

    date = redrive(machines, arn)

    running = machines.describe(arn)
    assert (running["status"], running["redriveDate"], running["redriveCount"]) == ("RUNNING", date, 1)
    assert running["redriveStatus"] == "NOT_REDRIVABLE"
    assert "RUNNING" in running["redriveStatusReason"]
    assert running.keys().isdisjoint({"stopDate", "error", "cause", "output"})
    token, again = work.take()
    assert (again["kept"], again["input"]) == (first["kept"], first["input"]) == (1, {"b": 2})
    assert (first["context"]["RedriveCount"], again["context"]["RedriveCount"]) == (0, 1)
    assert "RedriveTime" in again["context"]
    assert first["context"]["StartTime"] == again["context"]["StartTime"]
    work.succeed(token, "done")
    end = machines.end(arn)
    assert (end["status"], json.loads(end["output"])) == ("SUCCEEDED", [1, "done"])
    assert (end["startDate"], end["input"]) == (failed["startDate"], failed["input"])
    assert entered(machines, arn) == ["First", "Work", "Last"]
    kinds = machines.kinds(arn)
    at = kinds.index("ExecutionRedriven")
    assert kinds[at - 1 : at + 2] == ["ExecutionFailed", "ExecutionRedriven", "ActivityScheduled"]
    assert machines.events(arn)[at]["executionRedrivenEventDetails"] == {"redriveCount": 1}


@pytest.mark.parametrize("how", ["stop", "timeout"])
def test_an_execution_that_was_stopped_or_timed_out_continues(
    machines: Machines, work: Activity, how: str
) -> None:
    machine = machines.create({"First": pass_(Next="Work"), "Work": task(work.arn)}, TimeoutSeconds=3)
    arn = machines.start(machine)
    token, _ = work.take()
    if how == "stop":
        machines.client.stop_execution(executionArn=arn)
    machines.end(arn)

    redrive(machines, arn)

    # Its time limit begins anew.
    again, _ = work.take()
    assert again != token
    work.succeed(again, "done")
    assert json.loads(machines.end(arn)["output"]) == "done"
    assert entered(machines, arn) == ["First", "Work"]


def test_an_execution_is_redriven_several_times_and_retries_begin_anew(
    machines: Machines, work: Activity
) -> None:
    retry = [{"ErrorEquals": ["Busy"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    count = "{% $states.context.State.RetryCount %}"
    arn = machines.start(machines.create({"Work": task(work.arn, Arguments=count, Retry=retry)}))
    for number in range(3):
        if number:
            redrive(machines, arn)
        for attempt in range(2):
            token, retried = work.take()
            assert retried == attempt
            work.fail(token, "Busy")
        assert machines.end(arn)["redriveCount"] == number


def test_a_wait_until_a_time_that_has_passed_is_left_at_once(machines: Machines) -> None:
    soon = "{% $fromMillis($millis() + 2500) %}"
    machine = machines.create(
        {
            "Plan": pass_(Assign={"until": soon}, Next="Wait"),
            "Wait": {"Type": "Wait", "Timestamp": "{% $until %}", "Next": "Last"},
            "Last": pass_(),
        },
        TimeoutSeconds=1,
    )
    arn = machines.start(machine)
    assert machines.end(arn)["status"] == "TIMED_OUT"
    for _ in range(5):
        redrive(machines, arn)
        if machines.end(arn)["status"] == "SUCCEEDED":
            break
    assert machines.describe(arn)["status"] == "SUCCEEDED"
    assert entered(machines, arn) == ["Plan", "Wait", "Last"]


def test_a_fail_state_fails_again(machines: Machines) -> None:
    arn = machines.start(machines.create({"Fail": {"Type": "Fail", "Error": "Broken"}}))
    machines.end(arn)

    redrive(machines, arn)

    assert machines.end(arn)["error"] == "Broken"
    assert entered(machines, arn) == ["Fail", "Fail"]


def test_an_inline_map_keeps_what_succeeded(machines: Machines, work: Activity) -> None:
    iteration = {
        "Before": pass_(Assign={"item": "{% $states.input %}"}, Next="Work"),
        "Work": task(work.arn, Arguments="{% $item %}", Output="{% [$item, $states.result] %}"),
    }
    arn = machines.start(machines.create({"Map": map_of(iteration, [1, 2, 3, 4], MaxConcurrency=2)}))
    tokens = {}
    for _ in range(2):
        token, item = work.take()
        tokens[item] = token
    work.succeed(tokens[1], "first")
    token, item = work.take()
    assert item == 3
    work.fail(tokens[2], "Broken")
    assert machines.end(arn)["error"] == "Broken"

    redrive(machines, arn)

    for _ in range(3):
        token, item = work.take()
        work.succeed(token, f"again {item}")
    assert json.loads(machines.end(arn)["output"]) == [
        [1, "first"],
        [2, "again 2"],
        [3, "again 3"],
        [4, "again 4"],
    ]
    # Those that had begun continue where they were; the fourth begins.
    assert entered(machines, arn).count("Before") == 4
    kinds = machines.kinds(arn)
    assert (kinds.count("MapStateStarted"), kinds.count("MapIterationStarted")) == (1, 4)


def test_a_parallel_keeps_the_branches_that_succeeded(machines: Machines, work: Activity) -> None:
    other = machines.activity()
    machine = machines.create({"Both": parallel({"A": task(work.arn)}, {"B": task(other.arn)})})
    arn = machines.start(machine)
    work.succeed(work.take()[0], "a")
    machines.waits_in(arn, "TaskStateExited")
    other.fail(other.take()[0], "Broken")
    machines.end(arn)

    redrive(machines, arn)

    other.succeed(other.take()[0], "b")
    assert json.loads(machines.end(arn)["output"]) == ["a", "b"]
    assert machines.kinds(arn).count("ActivityScheduled") == 3


def test_a_map_run_redrives_the_children_that_did_not_succeed(machines: Machines, work: Activity) -> None:
    step = task(work.arn, Arguments={"item": "{% $states.input %}", "who": "{% $states.context.Execution %}"})
    arn = machines.start(
        machines.create({"Map": map_of({"Work": step}, [1, 2], "DISTRIBUTED", Label="each")})
    )
    first = {}
    for _ in range(2):
        token, given = work.take()
        first[given["item"]] = given["who"]
        if given["item"] == 1:
            work.succeed(token, "one")
        else:
            failing = token
    (run,) = machines.client.list_map_runs(executionArn=arn)["mapRuns"]

    def described() -> Any:
        return machines.client.describe_map_run(mapRunArn=run["mapRunArn"])

    wait_for(lambda: described()["executionCounts"]["succeeded"] == 1, "the first child")

    work.fail(failing, "Broken")
    assert machines.end(arn)["error"] == "States.ExceedToleratedFailureThreshold"
    assert (described()["status"], described()["executionCounts"]["failed"]) == ("FAILED", 1)
    child = first[2]["Id"]
    assert machines.describe(child)["redriveStatus"] == "REDRIVABLE_BY_MAP_RUN"
    assert code_of(lambda: redrive(machines, child)) == "ExecutionNotRedrivable"

    redrive(machines, arn)

    token, given = work.take()
    assert (given["item"], given["who"]["Id"], given["who"]["RedriveCount"]) == (2, child, 1)
    work.succeed(token, "two")
    assert json.loads(machines.end(arn)["output"]) == ["one", "two"]
    assert (described()["status"], described()["redriveCount"]) == ("SUCCEEDED", 1)
    assert described()["executionCounts"]["succeeded"] == 2
    assert "ExecutionRedriven" in machines.kinds(child)
    kinds = machines.kinds(arn)
    assert (kinds.count("MapRunStarted"), kinds.count("MapRunRedriven")) == (1, 1)
    assert len(machines.client.list_map_runs(executionArn=arn)["mapRuns"]) == 1


def test_data_that_is_too_large_together_makes_the_map_run_again(machines: Machines, work: Activity) -> None:
    large = {"Work": task(work.arn, Output="{% $states.result & $pad('', 150000, 'x') %}")}
    arn = machines.start(machines.create({"Map": map_of(large, [1, 2])}))
    for _ in range(2):
        work.succeed(work.take()[0], "a")
    assert machines.end(arn)["error"] == "States.DataLimitExceeded"

    redrive(machines, arn)

    for _ in range(2):
        work.succeed(work.take()[0], "b")
    assert machines.end(arn)["error"] == "States.DataLimitExceeded"


def test_what_cannot_be_redriven_says_why(machines: Machines, work: Activity) -> None:
    done = machines.run(machines.create({"Pass": pass_()}))
    running = machines.start(machines.create({"Wait": WAIT}))
    full = machines.run(machines.create({"Fail": {"Type": "Fail", "Error": "Broken"}}))["executionArn"]
    machines.set(HistoryEvents=4)

    for arn in (done["executionArn"], running, full):
        assert code_of(partial(redrive, machines, arn)) == "ExecutionNotRedrivable"
    assert machines.describe(full)["redriveStatusReason"] == "Execution history event limit exceeded"
    assert done["redriveStatusReason"] == "Execution is SUCCEEDED and cannot be redriven"
    assert code_of(lambda: redrive(machines, f"{full}x")) == "ExecutionDoesNotExist"


def test_a_client_token_redrives_once(machines: Machines, work: Activity) -> None:
    arn = machines.start(machines.create({"Work": task(work.arn)}))
    work.fail(work.take()[0], "Broken")
    machines.end(arn)

    first = redrive(machines, arn, clientToken="one")
    assert redrive(machines, arn, clientToken="one") == first
    work.fail(work.take()[0], "Broken")
    machines.end(arn)
    assert redrive(machines, arn, clientToken="one") == first
    assert machines.describe(arn)["status"] == "FAILED"
    redrive(machines, arn, clientToken="two")
    work.succeed(work.take()[0], 1)
    assert machines.end(arn)["redriveCount"] == 2


def test_a_redriven_execution_keeps_its_definition(machines: Machines, work: Activity) -> None:
    machine = machines.create({"Work": task(work.arn)})
    arn = machines.start(machine)
    work.fail(work.take()[0], "Broken")
    machines.end(arn)
    other = {"StartAt": "Other", "States": {"Other": {"Type": "Pass", "End": True}}}
    machines.client.update_state_machine(stateMachineArn=machine, definition=json.dumps(other))

    redrive(machines, arn)

    work.succeed(work.take()[0], "done")
    assert json.loads(machines.end(arn)["output"]) == "done"
