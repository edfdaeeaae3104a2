"""What remote functions and services call of AWS, and whether each role that runs them allows it.

The calls are those that the code makes to the AWS in memory. A function that needs other arguments than those
of its types, to reach its calls, has a row in `ROWS`; a service in `DOCUMENTS`.
"""

import ast
import copy
import fnmatch
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from core import remote, services
from core.calls import rows as chunk_rows
from core.catalog import LAMBDAS_DIR, read_catalog
from core.errors import FunctionError
from stepflake.lint.template.document import FUNCTION, Template, alternatives, substituted, target
from stepflake.lint.template.permissions import statements
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.client import operations_of
from tests.unit.fake_aws.dynamodb import REUSE_TABLE, TABLE
from tests.unit.fake_aws.faults import Call

TEMPLATE = Template.read(Path(__file__).parents[2] / "template.yaml")

TEXT = "What a lovely day it is today"
BY_TYPE = {
    "str": TEXT,
    "int": 0,
    "float": Decimal(0),
    "Decimal": Decimal(0),
    "bool": True,
    "date": "2026-11-24",
    "time": "12:00:00",
    "datetime": "2026-11-24T12:00:00",
    "bytes": "00",
    "dict": {},
    "list": [],
    "Any": TEXT,
}
ROWS: dict[str, Callable[[FakeAws], list[Any]]] = dict.fromkeys(
    ("run_resume", "run_result", "run_status"),
    lambda aws: [
        [aws.step_functions.add("etl", "failed", "FAILED", {"dataset_id": "d"}, error="E", cause="c")]
    ],
)
DOCUMENTS: dict[str, dict[str, Any]] = {"hostname": {"name": "example.com"}}

# The names that code imports to run functions and services.
RUN_FUNCTIONS, RUN_SERVICES = "run_rows", "run_service"

Permission = tuple[str, str]


@pytest.fixture(params=[True, False], ids=["with redrives", "without redrives"])
def account(request: pytest.FixtureRequest, aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> FakeAws:
    """AWS as it is deployed to: Amazon Comprehend scores texts, and executions may or may not be redriven."""
    monkeypatch.setenv("SENTIMENT_ENGINE", "comprehend")
    monkeypatch.setenv("COMPREHEND_RATE_LIMIT", "10/second")
    monkeypatch.setenv("SENTIMENT_REUSE", "7 days")
    aws.comprehend.positive[TEXT] = 1.0
    aws.step_functions.redrives = request.param
    return aws


def needed(calls: list[Call]) -> set[Permission]:
    """The action of each call, and what it is about: an ARN, or an item's table and partition key.

    `*` where the call names neither.
    """
    names = {"stepfunctions": "states"}
    # S3 has other actions than operations.
    actions = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectsV2": "s3:ListBucket"}
    found: set[Permission] = set()
    for call in calls:
        operation = operations_of(call.service)[call.operation].name
        action = f"{names.get(call.service, call.service)}:{operation}"
        arn = call.parameters.get("executionArn") or call.parameters.get("stateMachineArn") or "*"
        items = items_of(call) if call.service == "dynamodb" else [arn]
        found.update((actions.get(action, action), item) for item in items)
    return found


def items_of(call: Call) -> Iterator[str]:
    """The items of a call of DynamoDB's, as `ReuseTable/function#sentiment`."""
    tables = {TABLE: "Table", REUSE_TABLE: "ReuseTable"}
    several = call.parameters.get("RequestItems", {})
    for table, requests in several.items():
        for each in requests["Keys"] if call.operation == "batch_get_item" else requests:
            key = each["PutRequest"]["Item"] if "PutRequest" in each else each
            yield f"{tables[table]}/{key['pk']['S']}"
    if not several:
        key = call.parameters.get("Key") or call.parameters.get("Item")
        pk = key["pk"] if key else call.parameters["ExpressionAttributeValues"][":pk"]
        yield f"{tables[call.parameters['TableName']]}/{pk['S']}"


def lacking(template: Template, lambda_name: str, wanted: set[Permission]) -> set[Permission]:
    """What a Lambda's role and the template's policies that it has do not allow."""
    role = target(template.resources[lambda_name]["Properties"]["Role"])
    assert role
    attached = alternatives(template.resources[role]["Properties"].get("ManagedPolicyArns", []))
    owners = {role, *map(target, attached)}
    allowed = {
        (action, pattern)
        for owner, statement in statements(template)
        if owner in owners and statement["Effect"] == "Allow"
        for action in alternatives(statement["Action"])
        for pattern in patterns(action, statement)
    }
    return {
        (action, arn)
        for action, arn in wanted
        if not any(action == may and (arn == "*" or fnmatch.fnmatch(arn, on)) for may, on in allowed)
    }


def patterns(action: str, statement: Any) -> list[str]:
    """What a statement allows the action on, as `needed` names it."""
    if not action.startswith("dynamodb:"):
        return [arn_pattern(resource) for resource in alternatives(statement["Resource"])]
    conditions = statement.get("Condition", {}).get("ForAllValues:StringLike", {})
    keys = alternatives(conditions.get("dynamodb:LeadingKeys", ["*"]))
    return [f"{target(table)}/{key}" for table in alternatives(statement["Resource"]) for key in keys]


def arn_pattern(resource: Any) -> str:
    """A Resource as IAM compares it, with the names of the account in memory."""
    text = substituted(resource) or (resource if isinstance(resource, str) else "*")
    names = {"Partition": "aws", "Region": "us-east-1", "AccountId": "123456789012", "StackName": "stack"}
    for name, value in names.items():
        text = text.replace(f"${{AWS::{name}}}", value)
    return text


def lambdas_that_import(name: str) -> list[str]:
    """The Lambdas of which some module imports this name."""
    handlers = {
        lambda_name: str(function["Handler"]).removesuffix(".handler")
        for lambda_name, function in TEMPLATE.of_type(FUNCTION)
    }
    return [lambda_name for lambda_name, module in handlers.items() if name in imported_by(module)]


@cache
def imported_by(module: str) -> frozenset[str]:
    """All names that a module of lambdas/ imports, and those that the modules which it imports do."""
    path = LAMBDAS_DIR / f"{module.replace('.', '/')}.py"
    if not path.exists():
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(alias.name for alias in node.names)
            names |= imported_by(node.module)
            for alias in node.names:
                names |= imported_by(f"{node.module}.{alias.name}")
    return frozenset(names)


def function_calls(aws: FakeAws, name: str) -> list[Call]:
    """What a remote function calls for one row."""
    signature = read_catalog(diagnostics=True)[name]
    default = [[BY_TYPE[parameter.type] for parameter in signature.parameters]]
    rows = ROWS[name](aws) if name in ROWS else default
    try:
        chunk_rows.run_rows(signature, remote.load_function(name), rows, 0)
    except FunctionError:
        assert name == "fail", "give it a row in ROWS with which it does what it is for"
    return aws.faults.calls


def service_calls(aws: FakeAws, name: str) -> list[Call]:
    """What a service calls for one document."""
    services.run_service(name, DOCUMENTS.get(name, {"text": TEXT}))
    return aws.faults.calls


def problems(template: Template, runner: str, calls: list[Call]) -> Iterator[str]:
    for lambda_name in lambdas_that_import(runner):
        for action, arn in sorted(lacking(template, lambda_name, needed(calls))):
            yield f"{lambda_name} may not {action} on {arn}"


@pytest.mark.parametrize("name", read_catalog(diagnostics=True))
def test_each_lambda_that_runs_functions_may_do_what_they_do(account: FakeAws, name: str) -> None:
    assert not list(problems(TEMPLATE, RUN_FUNCTIONS, function_calls(account, name)))


@pytest.mark.parametrize("name", services.service_names())
def test_each_lambda_that_runs_services_may_do_what_they_do(account: FakeAws, name: str) -> None:
    assert not list(problems(TEMPLATE, RUN_SERVICES, service_calls(account, name)))


# That these tests see what they should see


def test_the_lambdas_that_run_functions_and_services_are_found() -> None:
    assert {"ProcessFunction", "IngestFunction"} <= set(lambdas_that_import(RUN_FUNCTIONS))
    assert {"ServiceFunction", "WorkFunction"} <= set(lambdas_that_import(RUN_SERVICES))
    assert "CollectFunction" not in lambdas_that_import(RUN_FUNCTIONS) + lambdas_that_import(RUN_SERVICES)


def test_the_calls_of_the_projects_functions_and_services_are_seen(account: FakeAws) -> None:
    resumed = "states:RedriveExecution" if account.step_functions.redrives else "states:StartExecution"
    seen = needed(function_calls(account, "run_resume"))
    assert {action for action, _ in seen} >= {"states:DescribeExecution", resumed}
    assert {arn.split(":")[6] for _, arn in seen} == {"stack-etl"}


@pytest.mark.parametrize(("kind", "calls"), [("function", function_calls), ("service", service_calls)])
def test_what_limits_and_kept_results_need_is_seen(
    account: FakeAws, kind: str, calls: Callable[[FakeAws, str], list[Call]]
) -> None:
    partition = rf"ReuseTable/{kind}#sentiment"
    assert {
        (action, re.sub("#[0-9a-f]$", "#0", on)) for action, on in needed(calls(account, "sentiment"))
    } == {
        ("comprehend:BatchDetectSentiment", "*"),
        ("dynamodb:PutItem", "Table/rate#comprehend"),
        ("dynamodb:UpdateItem", "Table/rate#comprehend"),
        ("dynamodb:BatchGetItem", f"{partition}#0"),
        ("dynamodb:BatchWriteItem", f"{partition}#0"),
        ("dynamodb:Query", partition),
        ("dynamodb:UpdateItem", partition),
    }


@pytest.mark.parametrize("role", ["WorkFunctionRole", "ServiceFunctionRole"])
def test_a_role_without_the_policy_of_services_is_found(account: FakeAws, role: str) -> None:
    document = copy.deepcopy(TEMPLATE.document)
    document["Resources"][role]["Properties"]["ManagedPolicyArns"].remove({"Ref": "ServicePolicy"})
    found = list(
        problems(Template(TEMPLATE.path, document), RUN_SERVICES, service_calls(account, "sentiment"))
    )
    lambda_name = role.removesuffix("Role")
    assert f"{lambda_name} may not comprehend:BatchDetectSentiment on *" in found
    assert f"{lambda_name} may not dynamodb:UpdateItem on Table/rate#comprehend" in found
    assert f"{lambda_name} may not dynamodb:Query on ReuseTable/service#sentiment" in found


def test_a_right_on_other_executions_is_not_enough(account: FakeAws) -> None:
    wanted = {("states:DescribeExecution", "arn:aws:states:us-east-1:123456789012:execution:other-etl:x")}
    assert lacking(TEMPLATE, "ProcessFunction", wanted) == wanted


@pytest.mark.parametrize(
    ("lambda_name", "item"),
    [
        ("ProcessFunction", "ReuseTable/service#sentiment"),
        ("ProcessFunction", "Table/task#r#0"),
        ("WorkFunction", "ReuseTable/function#sentiment"),
        ("ServiceFunction", "ReuseTable/function#sentiment"),
    ],
)
def test_a_right_on_other_items_is_not_enough(lambda_name: str, item: str) -> None:
    wanted = {("dynamodb:UpdateItem", item), ("dynamodb:BatchGetItem", item)}
    assert lacking(TEMPLATE, lambda_name, wanted) == wanted


def test_the_batch_may_not_stop_the_runs_that_it_waits_for() -> None:
    actions = {
        action
        for owner, statement in statements(TEMPLATE)
        if owner == "BatchStateMachineRole"
        for action in alternatives(statement["Action"])
    }
    assert {"states:StartExecution", "states:DescribeExecution"} <= actions
    assert "states:StopExecution" not in actions
