"""`stepflake runs`: its calls of Step Functions, its output, and the exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.catalog import read_workflows
from stepflake import runs
from stepflake.cli import main
from stepflake.commands import runs as command
from stepflake.stack import Stack, StackError
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.step_functions import MACHINES, FakeStepFunctions, execution_arn

STACK = Stack("http://x", None, "us-east-1", "stack", {"BatchStateMachineArn": f"{MACHINES}batch"}, {})


@pytest.fixture
def service(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> FakeStepFunctions:
    monkeypatch.setattr(Stack, "client", lambda _self, name: aws.client(name))
    monkeypatch.setattr(command, "find_stack", lambda **_: STACK)
    monkeypatch.setattr(runs, "FOLLOW_SECONDS", 0)
    return aws.step_functions


def call(*arguments: str, exit_code: int = 0, given: str | None = None) -> Result:
    result = CliRunner(mix_stderr=False).invoke(
        main, ["runs", *arguments], input=given, catch_exceptions=False
    )
    assert result.exit_code == exit_code, result.stdout + result.stderr
    return result


def test_each_workflow_has_its_machine(service: FakeStepFunctions) -> None:
    for workflow in read_workflows():
        assert runs.machine_arn(STACK, workflow) == f"{MACHINES}{workflow}"


def test_a_started_run_is_followed_to_its_output(aws: FakeAws, service: FakeStepFunctions) -> None:
    def finish() -> None:
        (execution,) = service.executions.values()
        execution.status, execution.output = "SUCCEEDED", execution.input

    aws.faults.meanwhile("describe_execution", lambda: None)
    aws.faults.meanwhile("describe_execution", finish)
    result = call("start", "etl", '{"dataset_id": "d", "batch_size": 1e1}', "--run", "given")
    first, _, output = result.stdout.partition("\n")
    assert first == "etl given: SUCCEEDED"
    assert json.loads(output) == {"dataset_id": "d", "batch_size": 10}
    assert aws.faults.operations().count("describe_execution") == 2


def test_a_started_run_that_is_not_visible_yet_is_followed(
    aws: FakeAws, service: FakeStepFunctions, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.work = lambda execution: setattr(execution, "status", "SUCCEEDED")
    aws.faults.fail("describe_execution", "ExecutionDoesNotExist", times=2)
    assert call("start", "etl", '{"dataset_id": "d"}').stdout.startswith("etl ")

    monkeypatch.setattr(runs, "VISIBLE_SECONDS", 0)
    aws.faults.fail("describe_execution", "ExecutionDoesNotExist")
    result = call("start", "etl", '{"dataset_id": "e"}', exit_code=1)
    assert "there is no run" in result.stderr


@pytest.mark.parametrize("source", ["argument", "file", "standard input"])
def test_an_input_is_an_argument_a_file_or_stdin(
    service: FakeStepFunctions, tmp_path: Path, source: str
) -> None:
    text = '{"names": [{"name": "ü"}]}'
    (tmp_path / "input.json").write_text(text, encoding="utf-8")
    argument = {"argument": text, "file": f"@{tmp_path / 'input.json'}", "standard input": "-"}[source]
    result = call("start", "fan_out", argument, "--no-wait", "--run", "mine", given=text)
    assert result.stdout == execution_arn("fan_out", "mine") + "\n"
    assert json.loads(service.executions[execution_arn("fan_out", "mine")].input) == json.loads(text)


def test_a_name_that_is_taken_starts_nothing(service: FakeStepFunctions) -> None:
    call("start", "etl", '{"dataset_id": "a"}', "--run", "mine", "--no-wait")
    result = call("start", "etl", '{"dataset_id": "b"}', "--run", "mine", exit_code=1)
    assert "There is already a run 'mine' of etl; see: stepflake runs show mine" in result.stderr
    assert len(service.executions) == 1


def test_the_same_name_and_input_twice_are_one_run(service: FakeStepFunctions) -> None:
    start = ("start", "etl", '{"dataset_id": "a"}', "--run", "mine", "--no-wait")
    assert call(*start).stdout == call(*start).stdout
    assert len(service.executions) == 1


@pytest.mark.parametrize("name", ["a b", "x" * 81, "ä", "a:b"])
def test_a_name_that_no_run_may_have_is_a_usage_error(service: FakeStepFunctions, name: str) -> None:
    result = call("start", "etl", '{"dataset_id": "a"}', "--run", name, exit_code=2)
    assert "at most 80 letters" in result.stderr
    assert service.executions == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "The input of fan_out: "),
        ('{"names": 3}', "The input of fan_out: at $.names: 3 is not of type 'array'"),
        ('{"names": [{"id": 9007199254740993}]}', "at $.names[0].id: 9007199254740993 has more digits"),
        (json.dumps({"names": [{"a": "x" * 262_144}]}), "a run takes 262,144"),
        ("@nowhere.json", "There is no file nowhere.json"),
    ],
)
def test_an_input_that_no_run_takes_starts_nothing(service: FakeStepFunctions, text: str, said: str) -> None:
    result = call("start", "fan_out", text, exit_code=1)
    assert said in result.stderr
    assert result.stdout == ""
    assert service.executions == {}


def test_runs_of_all_workflows_are_listed_newest_first(service: FakeStepFunctions) -> None:
    for number, workflow in enumerate(["etl", "pipeline", "etl", "ingest"]):
        service.add(workflow, f"n{number}", "FAILED")
    assert [run["run"] for run in json.loads(call("list", "--json").stdout)] == ["n3", "n2", "n1", "n0"]
    (newest,) = json.loads(call("list", "etl", "--limit", "1", "--json").stdout)
    assert newest == {
        "workflow": "etl",
        "run": "n2",
        "status": "FAILED",
        "started": "2026-11-22T12:00:00.002+00:00",
        "handle": execution_arn("etl", "n2"),
    }


def test_a_table_has_whole_names(service: FakeStepFunctions) -> None:
    service.add("pipeline", "x" * 80, "FAILED")
    assert "x" * 80 in call("list").stdout
    assert "No runs." in call("list", "etl").stdout


def test_runs_can_be_filtered_by_status(service: FakeStepFunctions) -> None:
    service.add("etl", "good", "SUCCEEDED", output="1")
    service.add("etl", "bad", "FAILED")
    assert [run["run"] for run in json.loads(call("list", "--status", "FAILED", "--json").stdout)] == ["bad"]


def test_a_run_that_has_ended_is_not_stopped(service: FakeStepFunctions) -> None:
    service.add("etl", "bad", "FAILED")
    assert "bad is not running: FAILED" in call("stop", "bad", exit_code=1).stderr


def test_a_run_that_succeeded_is_not_resumed(service: FakeStepFunctions) -> None:
    service.add("etl", "good", "SUCCEEDED", output="1")
    assert "nothing to resume" in call("resume", execution_arn("etl", "good"), exit_code=1).stderr


@pytest.mark.parametrize("name", ["show", "stop", "resume"])
@pytest.mark.parametrize("run", ["nothing", execution_arn("etl", "nothing"), "arn:nonsense", ""])
def test_an_unknown_run_is_named(service: FakeStepFunctions, name: str, run: str) -> None:
    assert repr(run) in call(name, run, exit_code=1).stderr


def test_a_stack_that_does_not_run_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_stack(**_: Any) -> Stack:
        raise StackError("The local stack 'local' is not running")

    monkeypatch.setattr(command, "find_stack", find_stack)
    for arguments in (["list"], ["show", "a"], ["start", "etl", "{}"], ["stop", "a"], ["resume", "a"]):
        assert "is not running" in call(*arguments, exit_code=1).stderr
