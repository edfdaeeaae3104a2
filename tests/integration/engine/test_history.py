"""The history of an execution on the engine has the events that AWS records, and is limited in number."""

import json

import pytest
import urllib3

from tests.integration.engine.machines import Machines, pass_, task
from tests.integration.engine.test_ends import map_of, parallel

START = "arn:aws:states:::states:startExecution"


def test_each_state_is_entered_and_exited(machines: Machines) -> None:
    end = machines.run(
        machines.create(
            {
                "First": pass_(Output={"a": 1}, Next="Which?"),
                "Which?": {"Type": "Choice", "Choices": [], "Default": "Wait"},
                "Wait": {"Type": "Wait", "Seconds": 0, "Next": "Done"},
                "Done": {"Type": "Succeed"},
            }
        )
    )

    events = machines.events(end["executionArn"])
    assert [event["type"] for event in events] == [
        "ExecutionStarted",
        *(
            f"{kind}State{move}"
            for kind in ("Pass", "Choice", "Wait", "Succeed")
            for move in ("Entered", "Exited")
        ),
        "ExecutionSucceeded",
    ]
    assert [event["id"] for event in events] == list(range(1, 11))
    assert [event["previousEventId"] for event in events] == list(range(10))
    assert json.loads(events[3]["stateEnteredEventDetails"]["input"]) == {"a": 1}


@pytest.mark.parametrize(
    ("pattern", "steps"),
    [
        ("", ["Scheduled", "Started", "Succeeded"]),
        (".sync:2", ["Scheduled", "Started", "Submitted", "Succeeded"]),
        (".waitForTaskToken", ["Scheduled", "Started", "Submitted", "Succeeded"]),
    ],
)
def test_a_task_has_its_steps(machines: Machines, pattern: str, steps: list[str]) -> None:
    work = machines.activity()
    child = machines.create({"Work": task(work.arn, Arguments="{% $states.input %}")})
    token = "{% $states.context.Task.Token %}" if "Token" in pattern else "none"
    arguments = {"StateMachineArn": child, "Input": {"token": token}}
    arn = machines.start(machines.create({"Run": task(f"{START}{pattern}", Arguments=arguments)}))
    if pattern:
        taken, given = work.take()
        if "Token" in pattern:
            machines.waits_in(arn, "TaskSubmitted")
            machines.client.send_task_success(taskToken=given["token"], output="1")
        work.succeed(taken, 1)
    machines.end(arn)

    events = machines.events(arn)
    tasks = [event for event in events if event["type"].startswith("Task") and "State" not in event["type"]]
    assert [event["type"] for event in tasks] == [f"Task{step}" for step in steps]
    scheduled = tasks[0]["taskScheduledEventDetails"]
    assert (scheduled["resourceType"], scheduled["resource"]) == ("states", f"startExecution{pattern}")
    assert json.loads(scheduled["parameters"])["StateMachineArn"] == child


def test_an_activity_has_its_steps(machines: Machines) -> None:
    work = machines.activity()
    arn = machines.start(machines.create({"Work": task(work.arn)}))
    work.succeed(work.take()[0], 1)
    machines.end(arn)

    kinds = [kind for kind in machines.kinds(arn) if kind.startswith("Activity")]
    assert kinds == ["ActivityScheduled", "ActivityStarted", "ActivitySucceeded"]


def test_the_iterations_of_a_map_are_in_its_history(machines: Machines) -> None:
    end = machines.run(machines.create({"Map": map_of({"Each": pass_()}, ["a", "b"], MaxConcurrency=1)}))

    events = machines.events(end["executionArn"])
    iteration = ["MapIterationStarted", "PassStateEntered", "PassStateExited", "MapIterationSucceeded"]
    assert [event["type"] for event in events] == [
        "ExecutionStarted",
        "MapStateEntered",
        "MapStateStarted",
        *iteration,
        *iteration,
        "MapStateSucceeded",
        "MapStateExited",
        "ExecutionSucceeded",
    ]
    assert events[2]["mapStateStartedEventDetails"] == {"length": 2}
    assert events[7]["mapIterationStartedEventDetails"] == {"name": "Map", "index": 1}
    # Each iteration follows the start of the Map, whatever the others do.
    assert (events[3]["previousEventId"], events[4]["previousEventId"]) == (3, 4)


def test_the_branches_of_a_parallel_are_in_its_history(machines: Machines) -> None:
    end = machines.run(machines.create({"Both": parallel({"A": pass_()}, {"B": pass_()})}))

    kinds = machines.kinds(end["executionArn"])
    assert sorted(kinds) == sorted(
        [
            "ExecutionStarted",
            "ParallelStateEntered",
            "ParallelStateStarted",
            *["PassStateEntered", "PassStateExited"] * 2,
            "ParallelStateSucceeded",
            "ParallelStateExited",
            "ExecutionSucceeded",
        ]
    )


def test_the_children_of_a_distributed_map_have_histories_of_their_own(machines: Machines) -> None:
    each = map_of({"Each": pass_(Output="{% $states.context.Execution.Id %}")}, [1, 2], "DISTRIBUTED")
    end = machines.run(machines.create({"Map": each}))

    assert machines.kinds(end["executionArn"]) == [
        "ExecutionStarted",
        "MapStateEntered",
        "MapStateStarted",
        "MapRunStarted",
        "MapRunSucceeded",
        "MapStateSucceeded",
        "MapStateExited",
        "ExecutionSucceeded",
    ]
    first, second = json.loads(end["output"])
    assert first != second
    assert machines.kinds(first) == [
        "ExecutionStarted",
        "PassStateEntered",
        "PassStateExited",
        "ExecutionSucceeded",
    ]


def test_an_expression_that_fails_is_in_the_history(machines: Machines) -> None:
    end = machines.run(machines.create({"Sum": pass_(Output="{% 'a' + 1 %}")}))

    assert end["error"] == "States.QueryEvaluationError"
    event = machines.events(end["executionArn"])[-2]
    assert (event["type"], event["evaluationFailedEventDetails"]["state"]) == ("EvaluationFailed", "Sum")


LOOP = {"A": pass_(Next="B"), "B": pass_(Next="A")}


def test_a_history_that_is_full_fails_the_execution(machines: Machines) -> None:
    end = machines.run(machines.create(LOOP))

    assert (end["status"], end["error"]) == ("FAILED", "States.Runtime")
    assert end["cause"] == "The execution reached the maximum number of history events (25000)."
    assert len(machines.events(end["executionArn"])) == 25_000
    assert end["redriveStatusReason"] == "Execution history event limit exceeded"


def test_an_express_execution_has_no_history_to_fill(machines: Machines) -> None:
    machine = machines.create({"A": pass_(Next="B"), "B": pass_()}, type="EXPRESS")
    machines.set(HistoryEvents=2)

    run = machines.client.start_sync_execution(stateMachineArn=machine, input="{}")

    assert run["status"] == "SUCCEEDED"


def test_the_parts_of_a_map_fill_its_history(machines: Machines) -> None:
    machines.set(HistoryEvents=50)
    catch = [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}]
    loop = map_of(LOOP, [1, 2, 3], Catch=catch)

    end = machines.run(machines.create({"Map": loop, "Caught": pass_()}))

    assert (end["status"], end["error"]) == ("FAILED", "States.Runtime")
    assert len(machines.events(end["executionArn"])) == 50


def test_the_last_place_is_for_the_end(machines: Machines) -> None:
    machine = machines.create({"A": pass_(Next="B"), "B": pass_()})
    machines.set(HistoryEvents=6)
    assert machines.run(machine)["status"] == "SUCCEEDED"
    machines.set(HistoryEvents=5)
    assert machines.run(machine)["status"] == "FAILED"


def test_state_transitions_are_delayed_and_not_refused(machines: Machines) -> None:
    url = f"{machines.engine.url}/_stepflake/settings"

    def limit(size: float, refill: float) -> None:
        values = {"states.StateTransition": {"size": size, "refill": refill}}
        assert urllib3.request("PUT", url, json={"limits": values}).status == 200

    states = {str(number): pass_(Next=str(number + 1)) for number in range(9)}
    machine = machines.create({**states, "9": pass_()})
    limit(1, 5)
    try:
        end = machines.run(machine)
    finally:
        limit(5000, 5000)

    assert end["status"] == "SUCCEEDED"
    assert (end["stopDate"] - end["startDate"]).total_seconds() >= 9 / 5 - 0.1
