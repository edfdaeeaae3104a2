"""What tests of roles make in an account: roles, machines, functions, and executions to their ends."""

import io
import json
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import urllib3

from stepflake.local.engine import Engine
from tests.runs import wait_for

ACCOUNT_ID = "000000000000"
REGION = "us-east-1"

Statement = Mapping[str, Any]

HANDLER = """\
def handler(event, context):
    if "touch" in event:
        open(event["touch"], "w").close()
    if "raise" in event:
        raise ValueError(event["raise"])
    return event
"""


def allow(action: str, resource: str = "*", **more: Any) -> dict[str, Any]:
    """A statement of a policy."""
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def policy(*statements: Statement) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust(service: str = "states.amazonaws.com", **more: Any) -> str:
    """A trust policy."""
    return policy({"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole", **more})


def arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT_ID}:{name}"


def task(resource: str, arguments: Any, **more: Any) -> dict[str, Any]:
    """A Task that is a whole machine, if it has no Next."""
    state = {"Type": "Task", "Resource": f"arn:aws:states:::{resource}", "Arguments": arguments}
    return {**state, "TimeoutSeconds": 60, "End": True, **more}


def definition(state: Any) -> str:
    """A machine of one state."""
    return json.dumps({"QueryLanguage": "JSONata", "StartAt": "Do", "States": {"Do": state}})


class Account:
    """Root of the account on an engine. Every name that it gives is new."""

    def __init__(self, engine: Engine, client: Callable[..., Any]) -> None:
        self.engine = engine
        self.iam = client("iam")
        self.states = client("stepfunctions")
        self.lambdas = client("lambda")
        self.sqs = client("sqs")
        self.sns = client("sns")
        self.client = client

    def role(self, *statements: Statement, trusting: str | None = None) -> str:
        """The ARN of a role with these inline statements, which Step Functions may assume."""
        name = f"role-{uuid.uuid4().hex}"
        role = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusting or trust())["Role"]
        if statements:
            self.iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(*statements))
        return str(role["Arn"])

    def machine(self, state: Any, role: str, **more: Any) -> str:
        """The ARN of a machine of one state."""
        created = self.states.create_state_machine(
            name=f"machine-{uuid.uuid4().hex}", definition=definition(state), roleArn=role, **more
        )
        return str(created["stateMachineArn"])

    def start(self, machine: str, value: Any = None) -> str:
        started = self.states.start_execution(stateMachineArn=machine, input=json.dumps(value or {}))
        return str(started["executionArn"])

    def end(self, execution: str) -> dict[str, Any]:
        """DescribeExecution's answer, once the execution has ended."""

        def ended() -> Any:
            # DescribeExecution sees an execution only a moment after its start.
            with suppress(self.states.exceptions.ExecutionDoesNotExist):
                described = self.states.describe_execution(executionArn=execution)
                if described["status"] != "RUNNING":
                    return described
            return None

        described: dict[str, Any] = wait_for(ended, f"the end of {execution}")
        return described

    def events(self, execution: str) -> list[str]:
        """The types of the events in an execution's history."""
        history = self.states.get_execution_history(executionArn=execution)
        return [str(event["type"]) for event in history["events"]]

    def run(self, state: Any, *statements: Statement) -> dict[str, Any]:
        """The end of a machine of one state, whose role has these statements."""
        return self.end(self.start(self.machine(state, self.role(*statements))))

    def executions(self, machine: str) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.states.list_executions(stateMachineArn=machine)[
            "executions"
        ]
        return found

    def function(self) -> str:
        """The ARN of a Lambda that returns its event; `touch` names a file to make, `raise` a message."""
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as bundle:
            bundle.writestr("index.py", HANDLER)
        created = self.lambdas.create_function(
            FunctionName=f"function-{uuid.uuid4().hex}",
            Runtime="python3.11",
            Handler="index.handler",
            Role=self.role(trusting=trust("lambda.amazonaws.com")),
            Code={"ZipFile": code.getvalue()},
        )
        return str(created["FunctionArn"])

    def queue(self, **attributes: str) -> tuple[str, str]:
        """The URL and the ARN of a queue."""
        name = f"queue-{uuid.uuid4().hex}"
        url = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url, arn("sqs", name)

    def messages(self, queue: str) -> list[str]:
        """The bodies that are in a queue."""
        received = self.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
        return [message["Body"] for message in received.get("Messages", [])]

    def set(self, **settings: Any) -> dict[str, Any]:
        """Changes the engine's limits or faults, and returns what they are."""
        answer = urllib3.request("PUT", f"{self.engine.url}/_stepflake/settings", json=settings)
        document: dict[str, Any] = json.loads(answer.data)
        return document
