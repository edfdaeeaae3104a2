"""Executions on the engine time out and stop as on AWS: nothing of them goes on, and nothing late counts."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import urllib3

from tests.integration.engine.machines import Activity, Machines, code_of, pass_, task
from tests.runs import wait_for

START = "arn:aws:states:::states:startExecution"
WAIT = {"Type": "Wait", "Seconds": 3600, "End": True}


def map_of(states: dict[str, Any], items: Any, mode: str = "INLINE", **fields: Any) -> dict[str, Any]:
    processor = {"ProcessorConfig": {"Mode": mode}, "StartAt": next(iter(states)), "States": states}
    if mode == "DISTRIBUTED":
        processor["ProcessorConfig"]["ExecutionType"] = "STANDARD"  # type: ignore[index]
    return {"Type": "Map", "Items": items, "ItemProcessor": processor, "End": True, **fields}


def parallel(*branches: dict[str, Any], **fields: Any) -> dict[str, Any]:
    levels = [{"StartAt": next(iter(branch)), "States": branch} for branch in branches]
    return {"Type": "Parallel", "Branches": levels, "End": True, **fields}


def children(machines: Machines, machine: str) -> list[Any]:
    return list(machines.client.list_executions(stateMachineArn=machine)["executions"])


# --- the time limit of an execution ---


def test_an_execution_that_waits_too_long_times_out(machines: Machines) -> None:
    end = machines.run(machines.create({"Wait": WAIT}, TimeoutSeconds=1))

    assert end["status"] == "TIMED_OUT"
    assert 1 <= (end["stopDate"] - end["startDate"]).total_seconds() < 60
    assert machines.kinds(end["executionArn"])[-1] == "ExecutionTimedOut"
    assert "output" not in end


@pytest.mark.parametrize("where", ["Task", "Map", "DISTRIBUTED", "Parallel", "Retry", "loop"])
def test_every_kind_of_state_times_out(machines: Machines, work: Activity, where: str) -> None:
    retry = [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 3600}]
    states: dict[str, dict[str, Any]] = {
        "Task": {"A": task(work.arn)},
        "Map": {"A": map_of({"W": WAIT}, [1, 2, 3], MaxConcurrency=1)},
        "DISTRIBUTED": {"A": map_of({"W": WAIT}, [1, 2], "DISTRIBUTED")},
        "Parallel": {"A": parallel({"W": WAIT}, {"T": task(work.arn)})},
        "Retry": {"A": task("arn:aws:states:us-east-1:000000000000:activity:none", Retry=retry)},
        "loop": {"A": {"Type": "Wait", "Seconds": 0, "Next": "B"}, "B": {"Type": "Pass", "Next": "A"}},
    }

    end = machines.run(machines.create(states[where], TimeoutSeconds=1))

    assert end["status"] == "TIMED_OUT"


def test_an_answer_after_the_time_limit_changes_nothing(machines: Machines, work: Activity) -> None:
    machine = machines.create({"Work": task(work.arn), "After": pass_()}, TimeoutSeconds=2)
    arn = machines.start(machine)
    token, _ = work.take()
    machines.end(arn)
    events = machines.events(arn)

    assert code_of(lambda: work.succeed(token)) == "TaskTimedOut"
    assert code_of(lambda: work.fail(token, "Late")) == "TaskTimedOut"
    assert code_of(lambda: machines.client.send_task_heartbeat(taskToken=token)) == "TaskTimedOut"
    assert machines.events(arn) == events
    assert machines.describe(arn)["status"] == "TIMED_OUT"


def test_an_answer_to_no_task_is_refused(machines: Machines) -> None:
    assert code_of(lambda: machines.client.send_task_success(taskToken="x", output="1")) == "TaskDoesNotExist"
    assert code_of(lambda: machines.client.send_task_success(taskToken="x", output="{")) == "InvalidOutput"


def test_an_end_is_an_event(machines: Machines, client: Callable[..., Any]) -> None:
    queues, events = client("sqs"), client("events")
    url = queues.create_queue(QueueName="ends")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    queues.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    events.put_rule(Name="ends", EventPattern=json.dumps({"source": ["aws.states"]}))
    events.put_targets(Rule="ends", Targets=[{"Id": "queue", "Arn": arn}])
    run = machines.run(machines.create({"Wait": WAIT}, TimeoutSeconds=1))["executionArn"]
    seen: dict[str, Any] = {}

    def look() -> bool:
        received = queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        details = [json.loads(message["Body"])["detail"] for message in received.get("Messages", [])]
        seen.update({detail["status"]: detail for detail in details if detail["executionArn"] == run})
        return seen.keys() == {"RUNNING", "TIMED_OUT"}

    wait_for(look, "both events")
    assert seen["TIMED_OUT"]["redriveStatus"] == "REDRIVABLE"
    assert seen["RUNNING"]["redriveStatus"] == "NOT_REDRIVABLE"
    assert seen["TIMED_OUT"]["output"] is None
    events.remove_targets(Rule="ends", Ids=["queue"])
    events.delete_rule(Name="ends")


def test_time_limits_are_not_scaled_with_waits(machines: Machines) -> None:
    url = f"{machines.engine.url}/_ministack/config"

    def scale(factor: float) -> None:
        assert urllib3.request("POST", url, json={"stepfunctions._SFN_WAIT_SCALE": factor}).status == 200

    machine = machines.create({"Wait": {**WAIT, "Seconds": 100}}, TimeoutSeconds=5)
    scale(0.01)
    try:
        assert machines.run(machine)["status"] == "SUCCEEDED"
    finally:
        scale(1)


# --- the time limits of a Task ---


@pytest.mark.parametrize(
    "limit",
    [
        {"TimeoutSeconds": 1},
        {"TimeoutSeconds": "{% $states.input.limit %}"},
        {"QueryLanguage": "JSONPath", "TimeoutSecondsPath": "$.limit"},
    ],
)
def test_a_task_times_out(machines: Machines, work: Activity, limit: dict[str, Any]) -> None:
    run = task(work.arn, Catch=[{"ErrorEquals": ["States.Timeout"], "Next": "Late"}], **limit)

    end = machines.run(machines.create({"Work": run, "Late": pass_(Output="late")}), {"limit": 1})

    assert (end["status"], json.loads(end["output"])) == ("SUCCEEDED", "late")
    assert "ActivityTimedOut" in machines.kinds(end["executionArn"])


def test_a_limit_that_is_no_number_fails_the_task(machines: Machines, work: Activity) -> None:
    end = machines.run(machines.create({"Work": task(work.arn, TimeoutSeconds="{% 'soon' %}")}))

    assert (end["status"], end["error"]) == ("FAILED", "States.QueryEvaluationError")


def test_a_callback_needs_heartbeats(machines: Machines, client: Callable[..., Any]) -> None:
    queue = client("sqs").create_queue(QueueName="beats")["QueueUrl"]
    send = task(
        "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        Arguments={"QueueUrl": queue, "MessageBody": "{% $states.context.Task.Token %}"},
        HeartbeatSeconds=2,
    )
    arn = machines.start(machines.create({"Send": send}))
    received = client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=20)
    token = received["Messages"][0]["Body"]
    begin = time.monotonic()
    while time.monotonic() - begin < 3:
        machines.client.send_task_heartbeat(taskToken=token)
        assert machines.describe(arn)["status"] == "RUNNING"
        time.sleep(0.2)

    end = machines.end(arn)

    assert (end["status"], end["error"]) == ("FAILED", "States.HeartbeatTimeout")


def test_the_child_of_a_task_that_times_out_goes_on(machines: Machines, work: Activity) -> None:
    child = machines.create({"Work": task(work.arn)})
    run = task(f"{START}.sync:2", Arguments={"StateMachineArn": child, "Input": {}}, TimeoutSeconds=1)

    end = machines.run(machines.create({"Run": run}))

    assert (end["status"], end["error"]) == ("FAILED", "States.Timeout")
    (running,) = children(machines, child)
    assert running["status"] == "RUNNING"
    token, _ = work.take()
    work.succeed(token)
    assert machines.end(running["executionArn"])["status"] == "SUCCEEDED"


# --- stopped ---


def test_nothing_begins_after_a_stop(machines: Machines, work: Activity) -> None:
    machine = machines.create({"Map": map_of({"Work": task(work.arn)}, [1, 2, 3, 4], MaxConcurrency=2)})
    arn = machines.start(machine)
    tokens = [work.take()[0] for _ in range(2)]

    stopped = machines.client.stop_execution(executionArn=arn, error="Enough", cause="why")

    end = machines.describe(arn)
    assert (end["status"], end["error"], end["cause"]) == ("ABORTED", "Enough", "why")
    assert machines.client.stop_execution(executionArn=arn)["stopDate"] == stopped["stopDate"]
    events = machines.kinds(arn)
    assert (events[-1], events.count("ActivityScheduled")) == ("ExecutionAborted", 2)
    for token in tokens:
        wait_for(partial(is_closed, work, token), "the task's end")
    assert machines.kinds(arn) == events


def is_closed(work: Activity, token: str) -> bool:
    return code_of(lambda: work.succeed(token)) == "TaskTimedOut"


@pytest.mark.parametrize("how", ["stop", "timeout", "sibling"])
def test_what_stops_a_task_stops_its_child(machines: Machines, work: Activity, how: str) -> None:
    grandchild = machines.create({"Work": task(work.arn)})
    child = machines.create({"Run": task(f"{START}.sync", Arguments={"StateMachineArn": grandchild})})
    run = task(f"{START}.sync:2", Arguments={"StateMachineArn": child, "Input": {}})
    states = {"Run": run}
    if how == "sibling":
        states = {"Both": parallel({"Run": run}, {"Fail": task(work.arn)})}
        grandchild = child
        machines.client.update_state_machine(
            stateMachineArn=child,
            definition=json.dumps({"StartAt": "Wait", "States": {"Wait": WAIT}}),
        )
    fields = {"TimeoutSeconds": 3} if how == "timeout" else {}
    arn = machines.start(machines.create(states, **fields))
    wait_for(lambda: children(machines, grandchild), "the innermost execution")
    # A Task that does not know yet which execution it started cannot stop it.
    for parent in {arn, *(each["executionArn"] for each in children(machines, child))}:
        if how != "sibling" or parent == arn:
            machines.waits_in(parent, "TaskSubmitted")

    if how == "stop":
        machines.client.stop_execution(executionArn=arn)
    elif how == "sibling":
        work.fail(work.take()[0], "Broken")

    status = {"stop": "ABORTED", "timeout": "TIMED_OUT", "sibling": "FAILED"}[how]
    assert machines.end(arn)["status"] == status
    for machine in (child, grandchild):
        (started,) = children(machines, machine)
        assert machines.end(started["executionArn"])["status"] == "ABORTED"


def test_a_detached_child_goes_on(machines: Machines, work: Activity) -> None:
    child = machines.create({"Work": task(work.arn)})
    start = task(START, Arguments={"StateMachineArn": child, "Input": {}}, Next="Wait")
    del start["End"]
    arn = machines.start(machines.create({"Start": start, "Wait": WAIT}))
    machines.waits_in(arn, "WaitStateEntered")

    machines.client.stop_execution(executionArn=arn)

    (started,) = children(machines, child)
    assert machines.describe(started["executionArn"])["status"] == "RUNNING"


def test_the_children_of_a_distributed_map_stop_too(machines: Machines, work: Activity) -> None:
    arn = machines.start(machines.create({"Map": map_of({"Work": task(work.arn)}, [1, 2], "DISTRIBUTED")}))
    for _ in range(2):
        work.take()

    machines.client.stop_execution(executionArn=arn)

    (run,) = machines.client.list_map_runs(executionArn=arn)["mapRuns"]

    def statuses() -> list[str]:
        listed = machines.client.list_executions(mapRunArn=run["mapRunArn"])["executions"]
        return [each["status"] for each in listed]

    wait_for(lambda: statuses() == ["ABORTED", "ABORTED"], "the children's ends")
    wait_for(
        lambda: machines.client.describe_map_run(mapRunArn=run["mapRunArn"])["status"] == "ABORTED",
        "the map run's end",
    )


# --- what a failed part does to the others ---


@pytest.mark.parametrize("kind", ["Map", "Parallel"])
def test_a_failed_part_stops_the_others_at_once(machines: Machines, work: Activity, kind: str) -> None:
    step = task(work.arn, Arguments="{% $states.input %}")
    first = pass_(Output={"a": 1}, Next="One")
    both = {
        "Map": map_of({"One": step}, [1, 2, 3], MaxConcurrency=2),
        "Parallel": parallel({"First": first, "One": step}, {"Wait": WAIT}),
    }[kind]
    machine = machines.create(
        {
            "Both": {**both, "Catch": [{"ErrorEquals": ["Broken"], "Next": "Caught"}]},
            "Caught": pass_(Output="{% $states.input.Cause %}"),
        }
    )
    arn = machines.start(machine)
    machines.waits_in(arn, "ActivityScheduled", 2 if kind == "Map" else 1)

    work.fail(work.take()[0], "Broken", "it is")

    end = machines.end(arn)
    assert (end["status"], json.loads(end["output"])) == ("SUCCEEDED", "it is")
    kinds = machines.kinds(arn)
    assert ("TaskStateAborted" if kind == "Map" else "WaitStateAborted") in kinds
    assert kinds.count("ActivityScheduled") == (2 if kind == "Map" else 1)
    if kind == "Map":
        assert [kinds.count(f"MapIteration{end}") for end in ("Started", "Failed", "Aborted")] == [2, 1, 1]
    assert kinds.index(f"{kind}StateFailed") < kinds.index(
        "PassStateExited", kinds.index(f"{kind}StateFailed")
    )


# --- retries ---


def test_a_map_is_retried_as_a_whole(machines: Machines, work: Activity) -> None:
    retry = [{"ErrorEquals": ["Busy"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    machine = machines.create(
        {"Map": map_of({"Work": task(work.arn)}, [1, 2], MaxConcurrency=1, Retry=retry)}
    )
    arn = machines.start(machine)
    work.succeed(work.take()[0], "first")
    work.fail(work.take()[0], "Busy")
    work.succeed(work.take()[0], "again")
    work.succeed(work.take()[0], "second")

    assert json.loads(machines.end(arn)["output"]) == ["again", "second"]


def test_the_delay_before_a_retry_is_as_the_retrier_says(machines: Machines, work: Activity) -> None:
    # 1 s, then 2 s, cut to 1 s.
    retry = {"ErrorEquals": ["Busy"], "IntervalSeconds": 1, "MaxAttempts": 2, "MaxDelaySeconds": 1}
    attempts = "{% $states.context.State.RetryCount %}"
    arn = machines.start(machines.create({"Work": task(work.arn, Arguments=attempts, Retry=[retry])}))
    counts = []
    for _ in range(3):
        token, count = work.take()
        counts.append(count)
        work.fail(token, "Busy")

    assert machines.end(arn)["error"] == "Busy"
    assert counts == [0, 1, 2]
    events = machines.events(arn)
    failed = [event["timestamp"] for event in events if event["type"] == "ActivityFailed"]
    scheduled = [event["timestamp"] for event in events if event["type"] == "ActivityScheduled"]
    waits = [(b - a).total_seconds() for a, b in zip(failed[:2], scheduled[1:], strict=True)]
    assert all(wait >= 0.99 for wait in waits)
