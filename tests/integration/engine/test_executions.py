"""Executions on the engine begin, are named, described and limited in size as on AWS."""

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3

from tests.integration.engine.machines import Machines, code_of, pass_, task
from tests.runs import wait_for

START = "arn:aws:states:::states:startExecution"
LIMIT = 262_144


@pytest.fixture(scope="module")
def waiting(machines: Machines) -> str:
    """A machine that waits for a long time."""
    return machines.create({"Wait": {"Type": "Wait", "Seconds": 3600, "End": True}})


def name() -> str:
    return f"run-{uuid.uuid4().hex}"


# --- names ---


@pytest.mark.parametrize(
    "bad", ["a b", "a/b", "a:b", "a*", "<a>", "a\tb", "a#b", "a\u0085b", "a\u2003b", "a$b"]
)
def test_a_name_with_a_forbidden_character_is_refused(machines: Machines, waiting: str, bad: str) -> None:
    assert code_of(lambda: machines.start(waiting, name=bad)) == "InvalidName"
    assert code_of(lambda: machines.client.create_activity(name=bad)) == "InvalidName"


def test_a_name_has_at_most_80_characters(machines: Machines) -> None:
    machine = machines.create({"Pass": pass_()})
    longest = name().ljust(80, "x")

    assert machines.end(machines.start(machine, name=longest))["name"] == longest
    assert code_of(lambda: machines.start(machine, name=f"{longest}x")) == "ValidationException"
    assert machines.end(machines.start(machine, name=f"é.{name()}"))["status"] == "SUCCEEDED"


def test_a_repeated_start_is_answered_as_the_first_while_the_execution_runs(
    machines: Machines, waiting: str
) -> None:
    def start(document: str) -> Any:
        return machines.client.start_execution(stateMachineArn=waiting, name=run, input=document)

    run = name()
    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(start, ['{"a": 1}'] * 8)

    assert [(other["executionArn"], other["startDate"]) for other in others] == [
        (first["executionArn"], first["startDate"])
    ] * 7
    assert machines.kinds(first["executionArn"]).count("ExecutionStarted") == 1
    assert code_of(lambda: start('{"a": 2}')) == "ExecutionAlreadyExists"
    machines.client.stop_execution(executionArn=first["executionArn"])
    assert code_of(lambda: start('{"a": 1}')) == "ExecutionAlreadyExists"


# --- data ---


@pytest.mark.parametrize("text", ["", "{", "nonsense", '{"a": }'])
def test_an_input_that_is_no_json_is_refused(machines: Machines, waiting: str, text: str) -> None:
    assert (
        code_of(lambda: machines.client.start_execution(stateMachineArn=waiting, input=text))
        == "InvalidExecutionInput"
    )


def test_an_input_has_at_most_256_kib_of_utf_8(machines: Machines) -> None:
    machine = machines.create({"Pass": pass_(Output=1)})
    largest = json.dumps("é" * (LIMIT // 2 - 1), ensure_ascii=False)
    assert len(largest.encode()) == LIMIT

    def start(text: str) -> str:
        return machines.client.start_execution(stateMachineArn=machine, input=text)["executionArn"]

    assert machines.end(start(largest))["status"] == "SUCCEEDED"
    assert code_of(lambda: start(f"{largest} ")) == "ValidationException"


def test_an_output_that_is_too_large_fails_the_execution(machines: Machines) -> None:
    double = "{% $states.input & $states.input %}"
    end = machines.run(machines.create({"Double": pass_(Output=double)}), "x" * (LIMIT // 2))

    assert (end["status"], end["error"]) == ("FAILED", "States.DataLimitExceeded")
    assert "'Double' returned a result with a size exceeding" in end["cause"]
    assert "output" not in end


@pytest.mark.parametrize(
    ("catches", "status"),
    [
        (["States.DataLimitExceeded"], "SUCCEEDED"),
        (["States.ALL"], "FAILED"),
        (["States.TaskFailed"], "FAILED"),
    ],
)
@pytest.mark.parametrize("what", ["Arguments", "Output", "result"])
def test_only_its_own_name_catches_data_that_is_too_large(
    machines: Machines, what: str, catches: list[str], status: str
) -> None:
    large = "{% $pad('', 200000, 'x') %}"
    child = machines.create({"Large": pass_(Output=large)})
    run = task(
        f"{START}.sync:2",
        Arguments={"StateMachineArn": child, "Input": {}},
        Catch=[{"ErrorEquals": catches, "Next": "Caught"}],
    )
    if what == "Arguments":
        run["Arguments"]["Input"] = {"a": large, "b": large}
    elif what == "Output":
        run["Output"] = "{% $states.result.Output & $states.result.Output %}"
    else:
        machines.set(PayloadSize=200_100)
    machine = machines.create({"Run": run, "Caught": pass_(Output="caught")})

    end = machines.run(machine)

    assert end["status"] == status
    assert end.get("error", "") == ("" if status == "SUCCEEDED" else "States.DataLimitExceeded")


def test_the_result_of_a_map_is_limited(machines: Machines) -> None:
    large = {"StartAt": "Large", "States": {"Large": pass_(Output="{% $pad('', 100000, 'x') %}")}}
    machine = machines.create(
        {
            "Map": {
                "Type": "Map",
                "Items": [1, 2, 3],
                "ItemProcessor": large,
                "Catch": [{"ErrorEquals": ["States.DataLimitExceeded"], "Next": "Caught"}],
                "End": True,
            },
            "Caught": pass_(Output="{% $states.input.Error %}"),
        }
    )

    assert json.loads(machines.run(machine)["output"]) == "States.DataLimitExceeded"


def test_nothing_catches_a_runtime_error(machines: Machines) -> None:
    run = task("arn:aws:states:::nothing:atAll", Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Caught"}])

    end = machines.run(machines.create({"Run": run, "Caught": pass_()}))

    assert (end["status"], end["error"]) == ("FAILED", "States.Runtime")


# --- described ---


def test_a_role_does_not_see_a_new_execution_at_once(
    machines: Machines, waiting: str, client: Callable[..., Any]
) -> None:
    role = machines.role.rpartition("/")[2]
    iam = client("iam")
    everybody = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    iam.update_assume_role_policy(
        RoleName=role,
        PolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    everybody,
                    {**everybody, "Principal": {"Service": "states.amazonaws.com"}},
                ],
            }
        ),
    )
    session = client("sts").assume_role(RoleArn=machines.role, RoleSessionName="test")["Credentials"]
    as_role = client(
        "stepfunctions",
        aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"],
        aws_session_token=session["SessionToken"],
    )
    machines.set(DescribeDelay=3600)
    arn = machines.start(waiting)

    assert machines.describe(arn)["status"] == "RUNNING"
    assert code_of(lambda: as_role.describe_execution(executionArn=arn)) == "ExecutionDoesNotExist"
    machines.set(DescribeDelay=0.5)

    def describe() -> Any:
        try:
            return as_role.describe_execution(executionArn=arn)
        except as_role.exceptions.ExecutionDoesNotExist:
            return None

    assert wait_for(describe, "the execution to be seen")["executionArn"] == arn


def test_an_execution_that_failed_has_no_output(machines: Machines) -> None:
    machine = machines.create({"Fail": {"Type": "Fail", "Error": "Broken", "Cause": "{% 'so ' & 'it is' %}"}})

    end = machines.run(machine)

    assert (end["error"], end["cause"]) == ("Broken", "so it is")
    assert "output" not in end


def test_states_see_their_execution(machines: Machines) -> None:
    machine = machines.create({"Context": pass_(Output="{% $states.context.Execution %}")})

    end = machines.run(machine, {"a": 1})

    seen = json.loads(end["output"])
    assert (seen["Id"], seen["Name"]) == (end["executionArn"], end["name"])
    assert (seen["Input"], seen["RoleArn"], seen["RedriveCount"]) == ({"a": 1}, machines.role, 0)


# --- EXPRESS ---


def test_only_an_express_machine_is_started_synchronously(machines: Machines, waiting: str) -> None:
    echo = machines.create({"Echo": pass_(Output={"said": "{% $states.input.say %}"})}, type="EXPRESS")
    fail = machines.create({"Fail": {"Type": "Fail", "Error": "Broken"}}, type="EXPRESS")
    slow = machines.create(
        {"Wait": {"Type": "Wait", "Seconds": 60, "End": True}}, type="EXPRESS", TimeoutSeconds=1
    )

    def run(machine: str) -> Any:
        return machines.client.start_sync_execution(stateMachineArn=machine, input='{"say": "hello"}')

    assert (run(echo)["status"], json.loads(run(echo)["output"])) == ("SUCCEEDED", {"said": "hello"})
    assert (run(fail)["status"], run(fail)["error"]) == ("FAILED", "Broken")
    assert run(slow)["status"] == "TIMED_OUT"
    assert code_of(lambda: run(waiting)) == "StateMachineTypeNotSupported"


def test_an_express_machine_is_started_twice_under_one_name_and_not_described(machines: Machines) -> None:
    machine = machines.create({"Pass": pass_()}, type="EXPRESS")
    run = name()

    first, second = (machines.start(machine, name=run) for _ in range(2))

    assert first != second
    assert code_of(lambda: machines.describe(first)) == "InvalidArn"


# --- executions that a Task starts ---


def child_of(machines: Machines, child: str, **fields: Any) -> str:
    arguments = {
        "StateMachineArn": child,
        "Name": "{% $states.input.name %}",
        "Input": "{% $states.input.input %}",
    }
    return machines.create({"Run": task(f"{START}.sync:2", Arguments=arguments, **fields)})


def test_a_child_is_an_execution_of_its_own(machines: Machines) -> None:
    child = machines.create({"Echo": pass_(Output={"echo": "{% $states.input %}"})})
    run = name()

    end = machines.run(child_of(machines, child), {"name": run, "input": {"a": 1}})

    result = json.loads(end["output"])
    described = machines.describe(result["ExecutionArn"])
    assert (described["name"], described["status"]) == (run, "SUCCEEDED")
    assert result["Output"] == json.loads(described["output"]) == {"echo": {"a": 1}}
    assert json.loads(result["Input"]) == {"a": 1}
    assert result["StartDate"] == int(described["startDate"].timestamp() * 1000)


def test_a_child_that_fails_fails_the_task_with_its_description(machines: Machines) -> None:
    child = machines.create({"Fail": {"Type": "Fail", "Error": "Broken", "Cause": "why"}})

    end = machines.run(child_of(machines, child), {"name": name(), "input": {}})

    assert end["error"] == "States.TaskFailed"
    cause = json.loads(end["cause"])
    assert (cause["Status"], cause["Error"], cause["Cause"]) == ("FAILED", "Broken", "why")
    assert machines.describe(cause["ExecutionArn"])["status"] == "FAILED"


def test_a_child_of_the_same_name_is_joined_while_it_runs_and_never_overwritten(machines: Machines) -> None:
    work = machines.activity()
    child = machines.create({"Work": task(work.arn)})
    parent = child_of(machines, child)
    run = name()
    first, second = (machines.start(parent, {"name": run, "input": {"a": 1}}) for _ in range(2))
    machines.waits_in(first, "TaskSubmitted")
    machines.waits_in(second, "TaskSubmitted")
    other = machines.run(parent, {"name": run, "input": {"a": 2}})

    token, _ = work.take()
    work.succeed(token, "done")

    for arn in (first, second):
        assert json.loads(machines.end(arn)["output"])["Output"] == "done"
    assert (other["status"], "AlreadyExists" in other["error"]) == ("FAILED", True)
    third = machines.run(parent, {"name": run, "input": {"a": 1}})
    assert (third["status"], "AlreadyExists" in third["error"]) == ("FAILED", True)


def test_a_name_that_is_invalid_fails_the_task(machines: Machines, waiting: str) -> None:
    end = machines.run(child_of(machines, waiting), {"name": "a/b", "input": {}})

    assert (end["status"], "InvalidName" in end["error"]) == ("FAILED", True)


# --- variables, Succeed and Parallel ---


def test_all_of_assign_sees_the_variables_from_before(machines: Machines) -> None:
    machine = machines.create(
        {
            "First": pass_(Assign={"a": 1, "b": 2}, Next="Second"),
            "Second": pass_(Assign={"a": "{% $b %}", "b": "{% $a %}"}, Next="Third"),
            "Third": pass_(Output="{% [$a, $b] %}"),
        }
    )

    assert json.loads(machines.run(machine)["output"]) == [2, 1]


def test_a_succeed_has_an_output(machines: Machines) -> None:
    machine = machines.create({"Done": {"Type": "Succeed", "Output": "{% $states.input.a %}"}})

    assert json.loads(machines.run(machine, {"a": 7})["output"]) == 7


def test_a_parallel_has_arguments_output_and_variables(machines: Machines) -> None:
    branches = [
        {"StartAt": each, "States": {each: pass_(Output="{% $states.input * " + str(factor) + " %}")}}
        for each, factor in (("Double", 2), ("Triple", 3))
    ]
    machine = machines.create(
        {
            "Both": {
                "Type": "Parallel",
                "Branches": branches,
                "Arguments": "{% $states.input.n %}",
                "Assign": {"sum": "{% $sum($states.result) %}"},
                "Output": "{% $states.result[1] %}",
                "Next": "Last",
            },
            "Last": pass_(Output="{% [$states.input, $sum] %}"),
        }
    )

    assert json.loads(machines.run(machine, {"n": 5})["output"]) == [15, 25]


def test_a_distributed_map_has_expressions_like_an_inline_one(machines: Machines) -> None:
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": "Each",
        "States": {"Each": pass_(Output="{% $states.input.value * $states.input.factor %}")},
    }
    machine = machines.create(
        {
            "Map": {
                "Type": "Map",
                "Items": "{% $states.input.numbers %}",
                "ItemSelector": {
                    "value": "{% $states.context.Map.Item.Value %}",
                    "factor": "{% $states.input.factor %}",
                },
                "MaxConcurrency": "{% $states.input.factor %}",
                "ItemProcessor": processor,
                "Assign": {"all": "{% $states.result %}"},
                "Output": "{% $sum($states.result) %}",
                "Next": "Last",
            },
            "Last": pass_(Output={"sum": "{% $states.input %}", "all": "{% $all %}"}),
        }
    )

    end = machines.run(machine, {"numbers": [1, 2, 3], "factor": 2})

    assert json.loads(end["output"]) == {"sum": 12, "all": [2, 4, 6]}


@pytest.mark.parametrize(("tolerated", "status"), [(1, "SUCCEEDED"), (0, "FAILED")])
def test_a_distributed_map_tolerates_as_many_failed_items_as_it_says(
    machines: Machines, tolerated: int, status: str
) -> None:
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": "Each",
        "States": {"Each": pass_(Output="{% 6 / $states.input.divisor %}")},
    }
    items = [{"divisor": 1}, {"none": 0}, {"divisor": 3}]
    fields = {"ToleratedFailureCount": tolerated, "MaxConcurrency": 1}
    machine = machines.create(
        {"Map": {"Type": "Map", "Items": items, "ItemProcessor": processor, "End": True, **fields}}
    )

    assert machines.run(machine)["status"] == status


def test_a_message_that_cannot_be_sent_fails_the_task_that_waits_for_its_token(machines: Machines) -> None:
    send = task(
        "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        Arguments={"QueueUrl": f"{machines.engine.url}/000000000000/nowhere", "MessageBody": "hello"},
    )

    end = machines.run(machines.create({"Send": send}))

    assert (end["status"], end["error"].partition(".")[0]) == ("FAILED", "SQS")


def test_without_limits_sizes_do_not_count(machines: Machines) -> None:
    url = f"{machines.engine.url}/_stepflake/settings"
    machine = machines.create({"Double": pass_(Output="{% $states.input & $states.input %}")})
    try:
        assert urllib3.request("PUT", url, json={"enabled": False}).status == 200
        assert machines.run(machine, "x" * LIMIT)["status"] == "SUCCEEDED"
    finally:
        assert urllib3.request("PUT", url, json={"enabled": True}).status == 200
