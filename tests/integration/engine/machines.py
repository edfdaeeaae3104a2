"""Machines of a test on a bare engine: created, started, worked for and looked at."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import urllib3
from botocore.exceptions import ClientError
from mypy_boto3_stepfunctions import SFNClient

from stepflake.local.engine import Engine
from tests.runs import wait_for


class Machines:
    """Step Functions on a bare engine, as root of the account. The machines' role may do everything."""

    def __init__(self, engine: Engine, client: Callable[..., Any]) -> None:
        self.engine = engine
        self.client: SFNClient = client("stepfunctions")
        # StartSyncExecution has an endpoint of its own on AWS (sync-states...), which does not resolve here.
        self.client.meta.config.inject_host_prefix = False
        trust = {
            "Effect": "Allow",
            "Principal": {"Service": "states.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
        iam = client("iam")
        name = f"role-{uuid.uuid4().hex}"
        self.role: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))["Role"][
            "Arn"
        ]
        everything = _policy({"Effect": "Allow", "Action": "*", "Resource": "*"})
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=everything)

    def set(self, **limits: float) -> None:
        """Changes limits of Step Functions that are maxima, by their names without `states.`."""
        values = {f"states.{name}": {"size": size, "refill": None} for name, size in limits.items()}
        answer = urllib3.request("PUT", f"{self.engine.url}/_stepflake/settings", json={"limits": values})
        assert answer.status == 200

    def create(self, states: dict[str, Any], **fields: Any) -> str:
        """A machine of these states, from the first on; its ARN. `fields`: of the definition, or `type`."""
        kind = fields.pop("type", "STANDARD")
        definition = {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states, **fields}
        answer = self.client.create_state_machine(
            name=f"machine-{uuid.uuid4().hex}",
            definition=json.dumps(definition),
            roleArn=self.role,
            type=kind,
        )
        return answer["stateMachineArn"]

    def start(self, machine: str, document: Any = None, name: str | None = None) -> str:
        named = {"name": name} if name is not None else {}
        answer = self.client.start_execution(
            stateMachineArn=machine, input=json.dumps({} if document is None else document), **named
        )
        return answer["executionArn"]

    def describe(self, arn: str) -> Any:
        return self.client.describe_execution(executionArn=arn)

    def end(self, arn: str) -> Any:
        """What DescribeExecution says about an execution that has ended."""
        return wait_for(
            lambda: described if (described := self.describe(arn))["status"] != "RUNNING" else None,
            f"the end of {arn}",
        )

    def run(self, machine: str, document: Any = None) -> Any:
        """How an execution ends."""
        return self.end(self.start(machine, document))

    def events(self, arn: str) -> list[Any]:
        pages = self.client.get_paginator("get_execution_history").paginate(executionArn=arn)
        return [event for page in pages for event in page["events"]]

    def kinds(self, arn: str) -> list[str]:
        """The types of the history's events, in order."""
        return [event["type"] for event in self.events(arn)]

    def waits_in(self, arn: str, kind: str, count: int = 1) -> None:
        """Waits until the history has so many events of a type."""
        wait_for(lambda: self.kinds(arn).count(kind) >= count, f"{count} {kind} in {arn}")

    def activity(self) -> "Activity":
        return Activity(self.client)


def _policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class Activity:
    """What a Task can wait for: the test is its worker."""

    def __init__(self, client: SFNClient) -> None:
        self.client = client
        self.arn = client.create_activity(name=f"activity-{uuid.uuid4().hex}")["activityArn"]

    def take(self) -> tuple[str, Any]:
        """The token and the input of the next task."""
        taken = self.client.get_activity_task(activityArn=self.arn)
        return taken["taskToken"], json.loads(taken["input"])

    def succeed(self, token: str, output: Any = None) -> None:
        self.client.send_task_success(taskToken=token, output=json.dumps(output))

    def fail(self, token: str, error: str, cause: str = "why") -> None:
        self.client.send_task_failure(taskToken=token, error=error, cause=cause)


def code_of(call: Callable[[], Any]) -> str:
    """The code of the error with which a call is answered."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    raise AssertionError("the call succeeded")


def task(resource: str, **fields: Any) -> dict[str, Any]:
    return {"Type": "Task", "Resource": resource, "End": True, **fields}


def pass_(**fields: Any) -> dict[str, Any]:
    return {"Type": "Pass", **({"End": True} if "Next" not in fields else {}), **fields}
