"""What commands ask a deployed stack for: its outputs, and the environment of its Lambdas."""

from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from stepflake.stack import Stack, StackError
from tests.unit.commands.stack import STACK


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stubber]:
    """AWS's answers, by service, which boto3 checks against its models."""
    session = boto3.Session("key", "secret", region_name="us-east-1")
    clients: dict[str, Any] = {name: session.client(name) for name in ("cloudformation", "lambda")}
    monkeypatch.setattr(Stack, "client", lambda _self, name: clients[name])
    stubs = {name: Stubber(client) for name, client in clients.items()}
    for stub in stubs.values():
        stub.activate()
    return stubs


def test_the_environment_of_a_lambda_is_found_by_its_logical_id(stubs: dict[str, Stubber]) -> None:
    stubs["cloudformation"].add_response(
        "describe_stack_resource",
        {
            "StackResourceDetail": {
                "LogicalResourceId": "Work",
                "PhysicalResourceId": "prod-Work-1",
                "ResourceType": "AWS::Lambda::Function",
                "LastUpdatedTimestamp": "2026-11-24T12:00:00Z",
                "ResourceStatus": "CREATE_COMPLETE",
            }
        },
        {"StackName": "prod", "LogicalResourceId": "Work"},
    )
    answer = {"Environment": {"Variables": {"RATE": "10/second"}}}
    stubs["lambda"].add_response("get_function_configuration", answer, {"FunctionName": "prod-Work-1"})
    assert STACK.environment("Work") == {"RATE": "10/second"}


def test_an_environment_that_may_not_be_read_is_an_error_of_the_stack(stubs: dict[str, Stubber]) -> None:
    stubs["cloudformation"].add_client_error("describe_stack_resource", "AccessDenied", "not allowed")
    with pytest.raises(StackError, match=r"The environment of Work can't be read: .*not allowed"):
        STACK.environment("Work")


def test_an_output_that_an_earlier_version_does_not_have() -> None:
    older = replace(STACK, outputs={})
    with pytest.raises(StackError, match="has no output ReuseTable: deploy the current version"):
        older.output("ReuseTable")
