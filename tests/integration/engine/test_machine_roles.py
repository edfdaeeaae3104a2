"""What machines call is done with their roles: each integration is refused without its right, as on AWS."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepflake.local.engine import Engine
from tests.integration.engine.account import (
    ACCOUNT_ID,
    Account,
    allow,
    arn,
    definition,
    policy,
    task,
    trust,
)
from tests.runs import wait_for

MANAGED_RULE = arn("events", "rule/StepFunctionsGetEventsForStepFunctionsExecutionRule")
WAITING = allow("events:*", MANAGED_RULE)
PASS = {"Type": "Pass", "End": True}


@pytest.fixture
def account(engine: Engine, client: Callable[..., Any]) -> Account:
    return Account(engine, client)


@dataclass(frozen=True)
class Case:
    """A Task and what it needs. `error`: what it fails with where it lacks `action` for `resource`."""

    state: Any
    action: str
    resource: str
    error: str
    spelled: str = ""


def lambda_case(account: Account) -> Case:
    function = account.function()
    return Case(
        task("lambda:invoke", {"FunctionName": function, "Payload": {"a": 1}}),
        "lambda:InvokeFunction",
        function,
        "Lambda.AWSLambdaException",
    )


def function_case(account: Account) -> Case:
    function = account.function()
    return Case(
        {"Type": "Task", "Resource": function, "End": True},
        "lambda:InvokeFunction",
        function,
        "Lambda.AWSLambdaException",
    )


def version_case(account: Account) -> Case:
    version = account.lambdas.publish_version(FunctionName=account.function())["FunctionArn"]
    assert version.endswith(":1")
    return Case(
        task("lambda:invoke", {"FunctionName": version, "Payload": {}}),
        "lambda:InvokeFunction",
        version,
        "Lambda.AWSLambdaException",
    )


def queue_case(account: Account) -> Case:
    url, queue = account.queue()
    return Case(
        task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"}),
        "sqs:SendMessage",
        queue,
        "SQS.AmazonSQSException",
        "sqs:sendmessage",
    )


def topic_case(account: Account) -> Case:
    topic = account.sns.create_topic(Name=f"topic-{uuid.uuid4().hex}")["TopicArn"]
    return Case(
        task("sns:publish", {"TopicArn": topic, "Message": "hello"}),
        "sns:Publish",
        topic,
        "SNS.AuthorizationErrorException",
        "SNS:Publish",
    )


def start_case(account: Account) -> Case:
    child = account.machine(PASS, account.role())
    return Case(
        task("states:startExecution", {"StateMachineArn": child, "Input": {}}),
        "states:StartExecution",
        child,
        "StepFunctions.AWSStepFunctionsException",
    )


def table(account: Account) -> str:
    name = f"table-{uuid.uuid4().hex}"
    account.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


def item_case(account: Account) -> Case:
    name = table(account)
    return Case(
        task("dynamodb:putItem", {"TableName": name, "Item": {"pk": {"S": "a"}}}),
        "dynamodb:PutItem",
        arn("dynamodb", f"table/{name}"),
        "DynamoDB.AmazonDynamoDBException",
    )


def sdk_case(account: Account) -> Case:
    name = table(account)
    return Case(
        task("aws-sdk:dynamodb:putItem", {"TableName": name, "Item": {"pk": {"S": "a"}}}),
        "dynamodb:PutItem",
        arn("dynamodb", f"table/{name}"),
        "DynamoDb.DynamoDbException",
    )


def events_case(account: Account) -> Case:
    entries = [{"Source": "test", "DetailType": "test", "Detail": {}}]
    return Case(
        task("events:putEvents", {"Entries": entries}),
        "events:PutEvents",
        arn("events", "event-bus/default"),
        "EventBridge.AmazonEventBridgeException",
    )


CASES = [
    lambda_case, function_case, version_case, queue_case, topic_case, start_case, item_case, sdk_case,
    events_case,
]  # fmt: skip


@pytest.mark.parametrize("make", CASES)
def test_a_task_needs_the_right_for_what_it_calls(account: Account, make: Callable[[Account], Case]) -> None:
    case = make(account)
    allowed = account.run(case.state, allow(case.action, case.resource))
    assert allowed["status"] == "SUCCEEDED", allowed.get("cause")

    role = account.role(allow(case.action, f"{case.resource}-other"))
    denied = account.end(account.start(account.machine(case.state, role)))
    assert (denied["status"], denied["error"]) == ("FAILED", case.error)
    name = role.rpartition("/")[2]
    spelled = case.spelled or case.action
    assert denied["cause"].startswith(f"User: arn:aws:sts::{ACCOUNT_ID}:assumed-role/{name}/")
    assert f"is not authorized to perform: {spelled} on resource: {case.resource} " in denied["cause"]
    assert f"because no identity-based policy allows the {spelled} action (Service: " in denied["cause"]


def test_a_denied_task_calls_nothing_and_can_be_caught(account: Account) -> None:
    url, _ = account.queue()
    state = task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"}, Next="Caught")
    del state["End"]
    state["Catch"] = [{"ErrorEquals": ["SQS.AmazonSQSException"], "Next": "Caught"}]
    machine = account.states.create_state_machine(
        name=f"machine-{uuid.uuid4().hex}",
        definition=json.dumps(
            {"QueryLanguage": "JSONata", "StartAt": "Do", "States": {"Do": state, "Caught": PASS}}
        ),
        roleArn=account.role(),
    )["stateMachineArn"]
    end = account.end(account.start(machine))
    assert json.loads(end["output"])["Error"] == "SQS.AmazonSQSException"
    assert account.messages(url) == []


def test_a_task_token_is_sent_only_with_the_right(account: Account) -> None:
    url, queue = account.queue()
    body = {"token": "{% $states.context.Task.Token %}"}
    state = task("sqs:sendMessage.waitForTaskToken", {"QueueUrl": url, "MessageBody": body})
    denied = account.run(state)
    assert (denied["status"], denied["error"]) == ("FAILED", "SQS.AmazonSQSException")

    execution = account.start(account.machine(state, account.role(allow("sqs:SendMessage", queue))))
    (message,) = wait_for(lambda: account.messages(url), "the message")
    account.states.send_task_success(taskToken=json.loads(message)["token"], output='"done"')
    assert account.end(execution)["output"] == '"done"'


@pytest.mark.parametrize("pattern", ["states:startExecution.sync", "states:startExecution.sync:2"])
def test_waiting_for_an_execution_needs_the_right_to_describe_it(account: Account, pattern: str) -> None:
    child = account.machine(PASS, account.role())
    state = task(pattern, {"StateMachineArn": child, "Input": {"a": 1}})
    executions = child.replace(":stateMachine:", ":execution:") + ":*"
    start = allow("states:StartExecution", child)

    end = account.run(state, WAITING, start, allow("states:DescribeExecution", executions))
    assert end["status"] == "SUCCEEDED", end.get("cause")
    output = json.loads(end["output"])["Output"]
    assert (output if pattern.endswith(":2") else json.loads(output)) == {"a": 1}

    for rights, missing in (([], "states:StartExecution"), ([start], "states:DescribeExecution")):
        end = account.run(state, WAITING, *rights)
        assert (end["status"], end["error"]) == ("FAILED", "StepFunctions.AWSStepFunctionsException")
        assert f"is not authorized to perform: {missing} on resource: " in end["cause"]


def test_a_stopped_task_stops_the_execution_it_waits_for_only_with_the_right(account: Account) -> None:
    child = account.machine({"Type": "Wait", "Seconds": 600, "End": True}, account.role())
    state = task("states:startExecution.sync:2", {"StateMachineArn": child, "Input": {}})
    rights = [WAITING, allow("states:StartExecution"), allow("states:DescribeExecution")]

    def stopped(*more: Any) -> str:
        """The child of an execution that is stopped while it waits."""
        others = {each["executionArn"] for each in account.executions(child)}
        started = account.start(account.machine(state, account.role(*rights, *more)))
        (waited_for,) = wait_for(
            lambda: {each["executionArn"] for each in account.executions(child)} - others, "the child"
        )
        wait_for(lambda: "TaskSubmitted" in account.events(started), "the wait")
        account.states.stop_execution(executionArn=started)
        return str(waited_for)

    keeps_running = stopped()
    assert account.end(stopped(allow("states:StopExecution")))["status"] == "ABORTED"
    assert account.states.describe_execution(executionArn=keeps_running)["status"] == "RUNNING"
    account.states.stop_execution(executionArn=keeps_running)


def distributed(**more: Any) -> Any:
    processor = {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "Do"}
    return {"Type": "Map", "ItemProcessor": {**processor, "States": {"Do": PASS}}, "End": True, **more}


def json_path(state: Any) -> str:
    return json.dumps({"StartAt": "Do", "States": {"Do": state}})


def run_map(account: Account, state: Any, *rights: Any, name: str = "", value: Any = None) -> dict[str, Any]:
    machine = account.states.create_state_machine(
        name=name or f"machine-{uuid.uuid4().hex}", definition=json_path(state), roleArn=account.role(*rights)
    )
    return account.end(account.start(machine["stateMachineArn"], value))


def test_a_distributed_map_needs_the_right_to_start_its_own_machine(account: Account) -> None:
    name = f"machine-{uuid.uuid4().hex}"
    own = arn("states", f"stateMachine:{name}")
    state = distributed(ItemsPath="$.items")
    denied = run_map(account, state, value={"items": [1, 2]})
    assert (denied["status"], denied["error"]) == ("FAILED", "StepFunctions.AWSStepFunctionsException")
    assert "is not authorized to perform: states:StartExecution" in denied["cause"]
    right = allow("states:StartExecution", own)
    end = run_map(account, state, right, name=name, value={"items": [1, 2]})
    assert (end["status"], json.loads(end.get("output", "null"))) == ("SUCCEEDED", [1, 2])


def test_a_redrive_of_a_distributed_map_needs_the_right_to_redrive_its_children(account: Account) -> None:
    state = distributed(ItemsPath="$.items", Label="each")
    state["ItemProcessor"]["States"]["Do"] = {"Type": "Fail", "Error": "No"}
    start = allow("states:StartExecution")

    def redriven(*more: Any) -> dict[str, Any]:
        end = run_map(account, state, start, *more, value={"items": [1]})
        assert end["error"] == "States.ExceedToleratedFailureThreshold"
        account.states.redrive_execution(executionArn=end["executionArn"])
        return account.end(end["executionArn"])

    denied = redriven()
    assert denied["error"] == "StepFunctions.AWSStepFunctionsException"
    assert "is not authorized to perform: states:RedriveExecution on resource: " in denied["cause"]
    right = allow("states:RedriveExecution", arn("states", "execution:*/each:*"))
    assert redriven(right)["error"] == "States.ExceedToleratedFailureThreshold"


@pytest.mark.parametrize(
    ("resource", "parameters", "action", "on"),
    [
        ("s3:getObject", {"Key": "items.json"}, "s3:GetObject", "/items.json"),
        ("s3:listObjectsV2", {"Prefix": "items"}, "s3:ListBucket", ""),
    ],
)
def test_an_item_reader_needs_the_right_to_read(
    account: Account, resource: str, parameters: Any, action: str, on: str
) -> None:
    bucket = f"bucket-{uuid.uuid4().hex}"
    s3 = account.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="items.json", Body=b"[7]")
    reader = {
        "Resource": f"arn:aws:states:::{resource}",
        "ReaderConfig": {"InputType": "JSON"},
        "Parameters": {"Bucket": bucket, **parameters},
    }
    state = distributed(ItemReader=reader)
    start = allow("states:StartExecution")
    denied = run_map(account, state, start)
    assert (denied["status"], denied["error"]) == ("FAILED", "States.ItemReaderFailed")
    assert (
        f"is not authorized to perform: {action} on resource: arn:aws:s3:::{bucket}{on} " in denied["cause"]
    )
    end = run_map(account, state, start, allow(action, f"arn:aws:s3:::{bucket}{on}"))
    assert end["status"] == "SUCCEEDED", end.get("cause")


def test_every_kind_of_policy_counts(account: Account) -> None:
    url, queue = account.queue()
    state = task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"})
    send = allow("sqs:SendMessage", queue)

    def status(role: str) -> tuple[str, str]:
        end = account.end(account.start(account.machine(state, role)))
        return end["status"], end.get("cause", "")

    def managed(*statements: Any) -> str:
        created = account.iam.create_policy(
            PolicyName=f"policy-{uuid.uuid4().hex}", PolicyDocument=policy(*statements)
        )
        return str(created["Policy"]["Arn"])

    attached = account.role()
    account.iam.attach_role_policy(RoleName=attached.rpartition("/")[2], PolicyArn=managed(send))
    assert status(attached)[0] == "SUCCEEDED"

    denied = account.role(send, {**send, "Effect": "Deny"})
    assert "with an explicit deny in an identity-based policy" in status(denied)[1]

    bounded = account.role(send)
    account.iam.put_role_permissions_boundary(
        RoleName=bounded.rpartition("/")[2], PermissionsBoundary=managed(allow("s3:*"))
    )
    assert status(bounded)[0] == "FAILED"

    tls = {"Bool": {"aws:SecureTransport": "true"}}
    assert status(account.role({**send, "Condition": tls}))[0] == "SUCCEEDED"
    elsewhere = {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}
    assert status(account.role({**send, "Condition": elsewhere}))[0] == "FAILED"


def test_the_policy_of_the_resource_counts(account: Account) -> None:
    url, queue = account.queue()
    send = allow("sqs:SendMessage", queue)
    named, refused = account.role(), account.role(send)
    account.sqs.set_queue_attributes(
        QueueUrl=url,
        Attributes={
            "Policy": policy(
                {**send, "Principal": {"AWS": named}},
                {**send, "Effect": "Deny", "Principal": {"AWS": refused}},
            )
        },
    )
    state = task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"})
    assert account.end(account.start(account.machine(state, named)))["status"] == "SUCCEEDED"
    end = account.end(account.start(account.machine(state, refused)))
    assert "with an explicit deny in a resource-based policy" in end["cause"]


def test_roles_are_enforced_where_limits_are_off(account: Account) -> None:
    url, _ = account.queue()
    account.set(enabled=False)
    try:
        end = account.run(task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"}))
    finally:
        account.set(enabled=True)
    assert end["error"] == "SQS.AmazonSQSException"


# --- when a machine is created ---------------------------------------------------------------------------

NOT_ASSUMED = "Neither the global service principal states.amazonaws.com, nor the regional one is authorized"


def refusal(account: Account, state: Any, role: str, **more: Any) -> str:
    with pytest.raises(ClientError) as raised:
        account.machine(state, role, **more)
    assert raised.value.response["Error"]["Code"] == "AccessDeniedException"
    return raised.value.response["Error"]["Message"]


def test_the_role_must_trust_step_functions(account: Account) -> None:
    for trusting in (
        trust("lambda.amazonaws.com"),
        trust(Condition={"StringEquals": {"aws:SourceAccount": "111111111111"}}),
        trust(Condition={"ArnLike": {"aws:SourceArn": arn("states", "stateMachine:other")}}),
    ):
        assert NOT_ASSUMED in refusal(account, PASS, account.role(trusting=trusting))
    for trusting in (
        trust("states.us-east-1.amazonaws.com"),
        trust(Condition={"StringEquals": {"aws:SourceAccount": ACCOUNT_ID}}),
        trust(Condition={"ArnLike": {"aws:SourceArn": arn("states", "stateMachine:*")}}),
    ):
        assert account.machine(PASS, account.role(trusting=trusting))


def test_a_role_that_no_longer_trusts_step_functions_can_do_nothing(account: Account) -> None:
    url, queue = account.queue()
    role = account.role(allow("sqs:SendMessage", queue))
    machine = account.machine(task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"}), role)
    account.iam.update_assume_role_policy(
        RoleName=role.rpartition("/")[2], PolicyDocument=trust("lambda.amazonaws.com")
    )
    end = account.end(account.start(machine))
    assert (end["status"], end["error"]) == ("FAILED", "SQS.AmazonSQSException")
    assert NOT_ASSUMED in end["cause"]


def test_a_machine_that_waits_for_executions_needs_the_managed_rule(account: Account) -> None:
    child = account.machine(PASS, account.role())
    waits = task("states:startExecution.sync:2", {"StateMachineArn": child})
    nested = {
        "Type": "Map",
        "Items": [1],
        "ItemProcessor": {"StartAt": "Do", "States": {"Do": waits}},
        "End": True,
    }
    role = account.role(allow("states:*"))
    for state in (waits, nested):
        assert refusal(account, state, role) == f"'{role}' is not authorized to create managed-rule."
        assert account.machine(state, account.role(WAITING))
    assert account.machine(task("states:startExecution", {"StateMachineArn": child}), role)

    machine = account.machine(PASS, role)
    with pytest.raises(ClientError, match="is not authorized to create managed-rule"):
        account.states.update_state_machine(stateMachineArn=machine, definition=definition(waits))
    unchanged = account.states.describe_state_machine(stateMachineArn=machine)["definition"]
    assert unchanged == definition(PASS)


def test_a_machine_that_logs_needs_the_rights_for_it(account: Account) -> None:
    group = {"cloudWatchLogsLogGroup": {"logGroupArn": arn("logs", "log-group:a:*")}}
    logs = {"level": "ERROR", "includeExecutionData": False, "destinations": [group]}
    message = "The state machine IAM Role is not authorized to access the Log Destination"
    assert refusal(account, PASS, account.role(), loggingConfiguration=logs) == message
    assert account.machine(PASS, account.role(allow("logs:*")), loggingConfiguration=logs)


@pytest.mark.parametrize("may", [True, False])
def test_cloudformation_creates_no_machine_whose_role_lacks_a_right(account: Account, *, may: bool) -> None:
    child = arn("states", "stateMachine:child")
    statements = [allow("states:StartExecution", child), *([WAITING] if may else [])]
    waits = task("states:startExecution.sync:2", {"StateMachineArn": child})
    template = {
        "Resources": {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "AssumeRolePolicyDocument": json.loads(trust()),
                    "Policies": [{"PolicyName": "own", "PolicyDocument": json.loads(policy(*statements))}],
                },
            },
            "Machine": {
                "Type": "AWS::StepFunctions::StateMachine",
                "Properties": {
                    "DefinitionString": definition(waits),
                    "RoleArn": {"Fn::GetAtt": ["Role", "Arn"]},
                },
            },
        }
    }
    cloudformation = account.client("cloudformation")
    stack = f"stack-{uuid.uuid4().hex}"
    cloudformation.create_stack(
        StackName=stack, TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_IAM"]
    )

    def status() -> str | None:
        (described,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
        ended = described["StackStatus"]
        return None if ended.endswith("_IN_PROGRESS") else str(ended)

    ended = wait_for(status, "the stack")
    assert ended == ("CREATE_COMPLETE" if may else "ROLLBACK_COMPLETE")
    events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
    reasons = " ".join(event.get("ResourceStatusReason", "") for event in events)
    assert ("is not authorized to create managed-rule" in reasons) is not may


# --- EventBridge -----------------------------------------------------------------------------------------


def test_a_rule_starts_a_machine_with_the_role_of_its_target(account: Account) -> None:
    machine = account.machine(PASS, account.role())
    events = account.client("events")
    source = f"test-{uuid.uuid4().hex}"
    events.put_rule(Name=source, EventPattern=json.dumps({"source": [source]}))
    start = allow("states:StartExecution", machine)

    def put(role: str) -> int:
        events.put_targets(Rule=source, Targets=[{"Id": "machine", "Arn": machine, "RoleArn": role}])
        events.put_events(Entries=[{"Source": source, "DetailType": "test", "Detail": "{}"}])
        return len(account.executions(machine))

    rules = trust("events.amazonaws.com")
    assert put(account.role(trusting=rules)) == 0
    assert put(account.role(start)) == 0, "it trusts only Step Functions"
    assert "is not authorized to perform: states:StartExecution" in account.engine.log.read_text()
    assert put(account.role(start, trusting=rules)) == 1
