"""A state machine of statemachines/ on the local engine, its Tasks answered by the test instead of by AWS.

Two ways in. `StateMachine.test` asks the TestState API about one state. `StateMachine.run` runs the whole
machine for real: in a copy of the definition each Task is an activity, so that the engine does the rest
(choices, expressions, variables, retries, catchers, Map and Parallel), and the test is the worker that takes
each task and answers. The engine's TestState and mock files can't do that (MiniStack 1.5.33): TestState
evaluates no Arguments, Output or Assign of a Task and takes no Map or Parallel; a mock file can't throw and
then return.
"""

import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mypy_boto3_stepfunctions import SFNClient
from mypy_boto3_stepfunctions.type_defs import GetActivityTaskOutputTypeDef

MACHINES = Path(__file__).parents[2] / "statemachines"
# The token in a Task's `.waitForTaskToken` arguments, since an activity has none.
TASK_TOKEN = "task-token"

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_ONLY_PLACEHOLDER = re.compile(r"\{% *\$\{\w+\} *%\}")
_NUMBER = "2"
_MAX_RUN_SECONDS = 60


# What every machine retries: transient errors, a Lambda process that ended or ran out of time, and an account
# whose concurrency is in use.
TRANSIENT = [
    "TransientError",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
]
DIED = [
    "States.Timeout",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.Unknown",
    "Sandbox.Timedout",
    "Runtime.ExitError",
    "Runtime.OutOfMemory",
    "Runtime.Unknown",
]
THROTTLED = "Lambda.TooManyRequestsException"
# The worker's time ended while it waited for the limit of what it calls.
RATE_LIMITED = "RateLimited"
# Final, although Lambda reports them as it does a process that ended: the code cannot be loaded.
UNLOADABLE = [
    "Runtime.ImportModuleError",
    "Runtime.HandlerNotFound",
    "Runtime.UserCodeSyntaxError",
]


@dataclass(frozen=True)
class Failure:
    """A Task's answer that is an error, by its name as ErrorEquals sees it."""

    error: str
    cause: str = "mocked"


@dataclass(frozen=True)
class Task:
    """One attempt at a Task: its state, its Arguments and its TimeoutSeconds as they were evaluated."""

    state: str
    arguments: Any
    timeout: float


Answer = Any  # a result as the service gives it, or a Failure
Answers = Answer | list[Answer] | Callable[[Any], Answer]


@dataclass(frozen=True)
class StateResult:
    """What TestState returns for one state: `status` is SUCCEEDED, FAILED, RETRIABLE or CAUGHT_ERROR."""

    status: str
    output: Any = None
    next_state: str | None = None
    error: str | None = None
    cause: str | None = None


@dataclass(frozen=True)
class Run:
    """A finished execution. `path`: the states it entered, without those inside of a Map or a Parallel."""

    status: str
    path: list[str]
    tasks: list[Task]
    output: Any = None
    error: str | None = None
    cause: str | None = None

    def attempts(self, state: str) -> list[Any]:
        """The arguments of each attempt at `state`, in the order in which they were made."""
        return [task.arguments for task in self.tasks if task.state == state]

    def timeouts(self, state: str) -> list[float]:
        """The TimeoutSeconds of each attempt at `state`, in the order in which they were made."""
        return [task.timeout for task in self.tasks if task.state == state]


def lambda_result(payload: Any) -> dict[str, Any]:
    """What `lambda:invoke` gives a machine when the function returns `payload`."""
    return {"StatusCode": 200, "ExecutedVersion": "$LATEST", "Payload": payload}


@dataclass(frozen=True)
class StateMachine:
    """`definition`: with its placeholders filled. Tests get one from the fixture `machine`."""

    client: SFNClient
    definition: Mapping[str, Any]

    @classmethod
    def load(cls, client: SFNClient, name: str, substitutions: Mapping[str, str]) -> "StateMachine":
        """The machine in statemachines/`name`.asl.json.

        Without a substitution a placeholder stands for its name, or for 2 where it is all of an expression.
        """
        text = (MACHINES / f"{name}.asl.json").read_text(encoding="utf-8")
        numeric = _ONLY_PLACEHOLDER.findall(text)
        numbers = {name: _NUMBER for expression in numeric for name in _PLACEHOLDER.findall(expression)}
        values = {**numbers, **substitutions}
        return cls(client, json.loads(_PLACEHOLDER.sub(lambda m: values.get(m[1], m[1]), text)))

    def test(
        self,
        state: str,
        state_input: Any,
        *,
        variables: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        failure: Failure | None = None,
        retries: int = 0,
    ) -> StateResult:
        """What `state` does with its input; a Task: what it does with a `failure` after so many `retries`.

        A state inside of a Map or a Parallel may be named too. There is no output of a Task.
        """
        level = next((level for level in _levels(self.definition) if state in level["States"]), None)
        assert level is not None, f"there is no state {state!r}"
        kind = level["States"][state]["Type"]
        if kind in ("Map", "Parallel") or (kind == "Task") != (failure is not None):
            raise ValueError(
                f"TestState on the local engine can't tell what {state!r} ({kind}) does here; use run()"
            )
        if failure is None:
            return self._test(level, state, state_input, variables, context)
        mock = {
            "mock": {"errorOutput": {"error": failure.error, "cause": failure.cause}},
            "stateConfiguration": {"retrierRetryCount": retries},
        }
        # The engine's TestState checks Catch first, which applies only after the retries.
        without_catch = {name: fields for name, fields in level["States"][state].items() if name != "Catch"}
        retrying = {**level, "States": {**level["States"], state: without_catch}}
        result = self._test(retrying, state, state_input, variables, context, **mock)
        if result.status != "RETRIABLE":
            result = self._test(level, state, state_input, variables, context, **mock)
        return replace(result, output=None)

    def _test(
        self,
        level: Mapping[str, Any],
        state: str,
        state_input: Any,
        variables: Mapping[str, Any] | None,
        context: Mapping[str, Any] | None,
        **mock: Any,
    ) -> StateResult:
        answer = self.client.test_state(
            definition=json.dumps({**level, "QueryLanguage": self.definition["QueryLanguage"]}),
            stateName=state,
            input=json.dumps(state_input),
            variables=json.dumps(variables or {}),
            # The engine takes variables only from the context.
            context=json.dumps({**(context or {}), "variables": variables or {}}),
            **mock,
        )
        return StateResult(
            status=answer["status"],
            output=json.loads(answer["output"]) if "output" in answer else None,
            next_state=answer.get("nextState"),
            error=answer.get("error"),
            cause=answer.get("cause"),
        )

    def run(self, run_input: Any, answers: Mapping[str, Answers] | None = None) -> Run:
        """Run the machine to its end. `answers`: for each Task state the answer to every attempt, a list of
        answers to one attempt after another, or a function from the arguments to the answer.

        Waits and retry intervals take no time. Raises AssertionError for a Task without an answer, and for
        answers to states that are not Tasks.
        """
        tasks = {
            state
            for level in _levels(self.definition)
            for state, fields in level["States"].items()
            if fields["Type"] == "Task"
        }
        assert tasks >= set(answers or {}), f"the Tasks are {sorted(tasks)}"
        name = f"test-{uuid.uuid4().hex}"
        activity = self.client.create_activity(name=name)["activityArn"]
        machine = self.client.create_state_machine(
            name=name,
            definition=json.dumps(_with_activities(self.definition, activity)),
            roleArn="arn:aws:iam::000000000000:role/unused",
        )["stateMachineArn"]
        worker = _Worker(self.client, activity, dict(answers or {}))
        execution = self.client.start_execution(stateMachineArn=machine, input=json.dumps(run_input))[
            "executionArn"
        ]
        deadline = time.monotonic() + _MAX_RUN_SECONDS
        work = threading.Thread(target=worker.answer_all, daemon=True)
        work.start()
        try:
            while (described := self.client.describe_execution(executionArn=execution))[
                "status"
            ] == "RUNNING":
                worker.check()
                assert time.monotonic() < deadline, f"still running; tasks so far: {worker.tasks}"
                time.sleep(0.005)
            events = self._events(execution)
        except BaseException:
            self.client.stop_execution(executionArn=execution)
            raise
        finally:
            self.client.delete_state_machine(stateMachineArn=machine)
            self.client.delete_activity(activityArn=activity)
            work.join()
        return Run(
            status=described["status"],
            path=[
                event["stateEnteredEventDetails"]["name"]
                for event in events
                if event.get("stateEnteredEventDetails", {}).get("name") in self.definition["States"]
            ],
            tasks=worker.tasks,
            output=json.loads(described["output"]) if described["status"] == "SUCCEEDED" else None,
            error=described.get("error"),
            cause=described.get("cause"),
        )

    def _events(self, execution: str) -> Sequence[Mapping[str, Any]]:
        pages = self.client.get_paginator("get_execution_history").paginate(executionArn=execution)
        return [event for page in pages for event in page["events"]]


@dataclass
class _Worker:
    """Takes the tasks of one activity and answers them. `failure`: why it stopped before the end."""

    client: SFNClient
    activity: str
    answers: Mapping[str, Answers]
    tasks: list[Task] = field(default_factory=list)
    failure: BaseException | None = None

    def check(self) -> None:
        """Raise what went wrong."""
        if self.failure is not None:
            raise self.failure

    def answer_all(self) -> None:
        """Take tasks until the activity is deleted."""
        try:
            while (taken := self._take()) is not None:
                self._answer(taken)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for the run
            self.failure = error

    def _take(self) -> GetActivityTaskOutputTypeDef | None:
        try:
            taken = self.client.get_activity_task(activityArn=self.activity)
        except self.client.exceptions.ActivityDoesNotExist:
            return None
        return taken if taken.get("taskToken") else None

    def _answer(self, taken: GetActivityTaskOutputTypeDef) -> None:
        sent = json.loads(taken["input"])
        self.tasks.append(Task(sent["state"], sent["arguments"], sent["timeout"]))
        answer = self._answer_to(self.tasks[-1])
        # Where another part of its Map or Parallel has failed, a task is not waited for any more.
        with contextlib.suppress(self.client.exceptions.TaskTimedOut):
            if isinstance(answer, Failure):
                self.client.send_task_failure(
                    taskToken=taken["taskToken"], error=answer.error, cause=answer.cause
                )
            else:
                self.client.send_task_success(taskToken=taken["taskToken"], output=json.dumps(answer))

    def _answer_to(self, task: Task) -> Answer:
        assert task.state in self.answers, (
            f"no answer for the Task {task.state!r}, called with {task.arguments}"
        )
        answers = self.answers[task.state]
        if callable(answers):
            return answers(task.arguments)
        if isinstance(answers, list):
            attempt = sum(earlier.state == task.state for earlier in self.tasks) - 1
            assert attempt < len(answers), f"the Task {task.state!r} was tried more than {len(answers)} times"
            return answers[attempt]
        return answers


def _levels(machine: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The machine, and each Map's and Parallel's part of it."""
    yield machine
    for state in machine["States"].values():
        for part in [state["ItemProcessor"]] if "ItemProcessor" in state else state.get("Branches", []):
            yield from _levels(part)


def _with_activities(machine: Mapping[str, Any], activity: str) -> dict[str, Any]:
    """The machine, or a Map's or Parallel's part of it, with each Task sent to `activity`."""
    states = {name: _with_activity(name, state, activity) for name, state in machine["States"].items()}
    return {**machine, "States": states}


def _with_activity(name: str, state: Mapping[str, Any], activity: str) -> Mapping[str, Any]:
    if state["Type"] == "Map":
        # Inline even where it is distributed: a child execution's history isn't this one's.
        processor = {**state["ItemProcessor"], "ProcessorConfig": {"Mode": "INLINE"}}
        return {**state, "ItemProcessor": _with_activities(processor, activity)}
    if state["Type"] == "Parallel":
        return {**state, "Branches": [_with_activities(branch, activity) for branch in state["Branches"]]}
    if state["Type"] != "Task":
        return state
    arguments = json.dumps(state.get("Arguments", "{% $states.input %}"))
    arguments = arguments.replace("$states.context.Task.Token", f"'{TASK_TOKEN}'")
    sent = {"state": name, "arguments": json.loads(arguments), "timeout": state["TimeoutSeconds"]}
    # An activity's own time limit would begin only when it is taken, and the test takes it at once.
    without_timeout = {field: value for field, value in state.items() if field != "TimeoutSeconds"}
    return {**without_timeout, "Resource": activity, "Arguments": sent}
