"""The template keeps its promises: each rule holds for template.yaml, and notices when it doesn't.

The rules are what cfn-lint doesn't ask for: logs that end, permissions that name what they are for, queues
whose poison goes somewhere, data that only its owner reads.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from tests.unit.asl.edits import Document, Edit, drop, insert, put

ROOT = Path(__file__).parents[3]

# Actions that IAM lets nobody narrow to a resource, and where that is written.
WITHOUT_RESOURCE = {
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsx-ray.html
    "xray:GetSamplingRules": "X-Ray keeps segments by account",
    "xray:GetSamplingTargets": "X-Ray keeps segments by account",
    "xray:PutTelemetryRecords": "X-Ray keeps segments by account",
    "xray:PutTraceSegments": "X-Ray keeps segments by account",
    # https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
    "logs:CreateLogDelivery": "deliveries of vended logs have no ARN",
    "logs:DeleteLogDelivery": "deliveries of vended logs have no ARN",
    "logs:DescribeLogGroups": "asked for as * where a machine's logs are set up",
    "logs:DescribeResourcePolicies": "resource policies of logs belong to the account",
    "logs:GetLogDelivery": "deliveries of vended logs have no ARN",
    "logs:ListLogDeliveries": "deliveries of vended logs have no ARN",
    "logs:PutResourcePolicy": "resource policies of logs belong to the account",
    "logs:UpdateLogDelivery": "deliveries of vended logs have no ARN",
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncomprehend.html
    "comprehend:BatchDetectSentiment": "calls on texts have no resource",
    "comprehend:DetectDominantLanguage": "calls on texts have no resource",
    "comprehend:DetectSentiment": "calls on texts have no resource",
    # On AWS the template names the machine: it gives * under the condition of the local engine alone.
    "states:SendTaskFailure": "the local engine sees no machine behind a task token",
    "states:SendTaskSuccess": "the local engine sees no machine behind a task token",
}
# AWS's own policies that may be attached, and why.
AWS_POLICIES = {
    "service-role/AmazonAPIGatewayPushToCloudWatchLogs": "the one that API Gateway's documentation asks for",
}
# Sources whose events wait or fail on their own, by SAM's names for them.
_WITH_DEAD_LETTER_CONFIG = ("Schedule", "ScheduleV2", "EventBridgeRule", "CloudWatchEvent")
_STREAMS = ("Kinesis", "DynamoDB", "MSK", "SelfManagedKafka", "DocumentDB")

Rule = Callable[[Document], Iterator[str]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


def of_type(template: Document, *types: str) -> Iterator[tuple[str, Document]]:
    """Logical id and properties of each resource of these types; a Lambda's with Globals under them."""
    shared = template.get("Globals", {}).get("Function", {})
    for name, resource in template["Resources"].items():
        if resource["Type"] in types:
            properties = resource.get("Properties", {})
            yield (
                name,
                {**shared, **properties} if resource["Type"] == "AWS::Serverless::Function" else properties,
            )


def alternatives(value: Any) -> list[Any]:
    """What a value may be: both sides of each `!If`, without `AWS::NoValue`; a list's items one by one."""
    if isinstance(value, list):
        return [found for item in value for found in alternatives(item)]
    if isinstance(value, Mapping) and "Fn::If" in value:
        return alternatives(value["Fn::If"][1:])
    return [] if value is None or value == {"Ref": "AWS::NoValue"} else [value]


def target(value: Any) -> str | None:
    """The logical id that `!Ref X`, `!GetAtt X.Arn` or `!Sub ${X.Arn}/*` names first."""
    if not isinstance(value, Mapping):
        return None
    if "Ref" in value:
        return str(value["Ref"])
    if "Fn::GetAtt" in value:
        parts = value["Fn::GetAtt"]
        return str(parts[0] if isinstance(parts, list) else parts.split(".")[0])
    found = re.match(r"\$\{(\w+)", substituted(value) or "")
    return found[1] if found else None


def substituted(value: Any) -> str | None:
    """The text of a `!Sub`, its variables still in it."""
    text = value.get("Fn::Sub") if isinstance(value, Mapping) else None
    return text[0] if isinstance(text, list) else text


def unrolled(template: Document) -> Document:
    """The template with each `Fn::ForEach` of its resources written out."""
    resources: Document = {}
    for name, resource in template["Resources"].items():
        if not name.startswith("Fn::ForEach::"):
            resources[name] = resource
            continue
        variable, items, fragment = resource
        for item in items:
            text = json.dumps(fragment).replace(f"${{{variable}}}", item)
            # A !Sub that the loop has filled in is the name itself.
            resources |= json.loads(re.sub(r'\{"Fn::Sub": ("[^"$]*")\}', r"\1", text))
    return {**template, "Resources": resources}


# --- rules ---


@rule
def logs_end(template: Document) -> Iterator[str]:
    groups = dict(of_type(template, "AWS::Logs::LogGroup"))
    for name, group in groups.items():
        if "RetentionInDays" not in group:
            yield f"{name}: logs are kept for ever; give it RetentionInDays"
    for name, function in of_type(template, "AWS::Serverless::Function"):
        logging = function.get("LoggingConfig", {})
        if target(logging.get("LogGroup")) not in groups:
            yield f"{name}: logs to a group that isn't here; name one in LoggingConfig"
        if logging.get("LogFormat") != "JSON":
            yield f"{name}: logs text; set LogFormat to JSON in LoggingConfig"


@rule
def lambdas_are_there_and_traced(template: Document) -> Iterator[str]:
    for name, function in of_type(template, "AWS::Serverless::Function"):
        module = function["Handler"].rpartition(".")[0].replace(".", "/")
        if not (ROOT / "lambdas" / f"{module}.py").exists():
            yield f"{name}: there is no lambdas/{module}.py; mend its Handler"
        if function.get("Tracing") != "Active":
            yield f"{name}: isn't traced; set Tracing to Active"
        if "Description" not in function:
            yield f"{name}: has no Description; say in a line what it does"


def statements(template: Document) -> Iterator[tuple[str, Document]]:
    """Every statement of an identity's policy. SAM's short forms count too: a function may have either."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        documents = [properties.get("PolicyDocument")] if resource["Type"].startswith("AWS::IAM::") else []
        for policy in alternatives(properties.get("Policies", [])):
            documents.append(policy.get("PolicyDocument", policy) if isinstance(policy, Mapping) else None)
        for document in alternatives(documents):
            for statement in alternatives(document.get("Statement", [])):
                yield name, statement


@rule
def permissions_name_their_resources(template: Document) -> Iterator[str]:
    for name, statement in statements(template):
        if statement.get("Effect") == "Deny":
            continue
        actions = alternatives(statement.get("Action", []))
        if not actions:
            yield f"{name}: allows all but a few actions; list them as Action"
        for action in actions:
            if "*" in action:
                yield f"{name}: allows {action}; name each action"
        resources = alternatives(statement.get("Resource", []))
        if not resources or any(is_everything(resource) for resource in resources):
            for action in actions:
                if action not in WITHOUT_RESOURCE:
                    yield f"{name}: allows {action} on everything; name the Resource"


def is_everything(resource: Any) -> bool:
    """Whether a Resource is `*`, or an ARN that ends with `*` where the name should be."""
    text = substituted(resource) or resource
    if not isinstance(text, str):
        return False
    without_variables = re.sub(r"\$\{[^}]*\}", "variable", text)
    return set(without_variables.split(":", maxsplit=5)[-1]) <= set("*:/")


@rule
def nobody_gets_policies_of_aws(template: Document) -> Iterator[str]:
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        attached = alternatives(properties.get("ManagedPolicyArns", []))
        attached += [p for p in alternatives(properties.get("Policies", [])) if not isinstance(p, Mapping)]
        for policy in attached:
            text = substituted(policy) or policy
            if isinstance(text, str) and text.partition(":policy/")[2] not in AWS_POLICIES:
                yield f"{name}: has the AWS policy {text}; write the statements that it needs"
    for name, function in of_type(template, "AWS::Serverless::Function", "AWS::Serverless::StateMachine"):
        if "Role" not in function and "Policies" not in function:
            yield f"{name}: has no Role of its own; give it one"


def dead_letter_queues(template: Document) -> set[str]:
    """Queues to which something else sends what it gave up."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key in ("deadLetterTargetArn", "TargetArn") or (
                    key == "Destination" and isinstance(item, Mapping)
                ):
                    found.add(str(target(item)))
                elif key == "DeadLetterConfig":
                    found.add(str(target(item.get("Arn"))))
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(template["Resources"])
    return found


@rule
def poison_leaves_each_queue(template: Document) -> Iterator[str]:
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    dead = dead_letter_queues(template)
    for name, queue in queues.items():
        redrive = queue.get("RedrivePolicy", {})
        if name in dead:
            if queue.get("MessageRetentionPeriod") != 1_209_600:
                yield f"{name}: forgets what failed; keep it for 14 days (MessageRetentionPeriod: 1209600)"
        elif target(redrive.get("deadLetterTargetArn")) not in queues or "maxReceiveCount" not in redrive:
            yield f"{name}: has no dead-letter queue; give it a RedrivePolicy"


def has_destination(config: Any) -> bool:
    """Whether a DestinationConfig or an EventInvokeConfig names where failures go."""
    config = config.get("DestinationConfig", config) if isinstance(config, Mapping) else {}
    return bool(config.get("OnFailure", {}).get("Destination"))


@rule
def failed_events_of_functions_and_machines_go_somewhere(template: Document) -> Iterator[str]:
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    for name, owner in of_type(template, "AWS::Serverless::Function", "AWS::Serverless::StateMachine"):
        for event, source in owner.get("Events", {}).items():
            here, kind, properties = f"{name}.{event}", source["Type"], source.get("Properties", {})
            if kind in _WITH_DEAD_LETTER_CONFIG and "Arn" not in properties.get("DeadLetterConfig", {}):
                yield f"{here}: events that can't be delivered are lost; give it a DeadLetterConfig"
            elif kind in _STREAMS and not has_destination(properties):
                yield f"{here}: records that fail are lost; give it a DestinationConfig with OnFailure"
            elif kind in ("SNS", "S3") and not has_destination(owner.get("EventInvokeConfig")):
                yield f"{here}: events that fail are lost; give it an EventInvokeConfig with OnFailure"
            elif kind == "SQS":
                if target(properties.get("Queue")) not in queues:
                    yield f"{here}: its queue isn't here, nor is what becomes of its poison; define both"
                if "ReportBatchItemFailures" not in properties.get("FunctionResponseTypes", []):
                    yield f"{here}: one failure repeats the whole batch; add ReportBatchItemFailures"


@rule
def failed_events_of_other_sources_go_somewhere(template: Document) -> Iterator[str]:
    queues = dict(of_type(template, "AWS::SQS::Queue"))
    for name, mapping in of_type(template, "AWS::Lambda::EventSourceMapping"):
        if target(mapping.get("EventSourceArn")) not in queues and not has_destination(mapping):
            yield f"{name}: records that fail are lost; give it a DestinationConfig with OnFailure"
    for name, events in of_type(template, "AWS::Events::Rule"):
        for found in alternatives(events.get("Targets", [])):
            if "Arn" not in found.get("DeadLetterConfig", {}):
                yield f"{name}: events that can't be delivered are lost; give its targets a DeadLetterConfig"
    for name, schedule in of_type(template, "AWS::Scheduler::Schedule"):
        if "Arn" not in schedule.get("Target", {}).get("DeadLetterConfig", {}):
            yield f"{name}: events that can't be delivered are lost; give its Target a DeadLetterConfig"
    for name, subscription in of_type(template, "AWS::SNS::Subscription"):
        if "deadLetterTargetArn" not in subscription.get("RedrivePolicy", {}):
            yield f"{name}: messages that can't be delivered are lost; give it a RedrivePolicy"
    for name, topic in of_type(template, "AWS::SNS::Topic"):
        if "Subscription" in topic:
            yield f"{name}: a subscription in a topic has no RedrivePolicy; use AWS::SNS::Subscription"


@rule
def buckets_are_private_and_tidy(template: Document) -> Iterator[str]:
    for name, bucket in of_type(template, "AWS::S3::Bucket"):
        if not bucket.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration"):
            yield f"{name}: isn't encrypted; give it BucketEncryption"
        access = bucket.get("PublicAccessBlockConfiguration", {})
        for switch in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"):
            if access.get(switch) is not True:
                yield f"{name}: may be made public; set {switch} to true"
        rules = [
            found
            for found in alternatives(bucket.get("LifecycleConfiguration", {}).get("Rules", []))
            if found.get("Status") == "Enabled"
        ]
        for need in ("ExpirationInDays", "AbortIncompleteMultipartUpload"):
            if not any(need in found for found in rules):
                yield f"{name}: grows for ever; give it a lifecycle rule with {need}"
        if not any(
            refuses_plain_http(policy, name) for _, policy in of_type(template, "AWS::S3::BucketPolicy")
        ):
            yield f"{name}: can be read without TLS; deny it in a bucket policy (aws:SecureTransport)"


def refuses_plain_http(policy: Document, bucket: str) -> bool:
    return target(policy["Bucket"]) == bucket and any(
        statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement["Action"] == "s3:*"
        and statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") in ("false", False)
        and {"GetAtt", "Sub"}
        <= {key.removeprefix("Fn::") for found in statement["Resource"] for key in found}
        and {target(found) for found in statement["Resource"]} == {bucket}
        for statement in alternatives(policy["PolicyDocument"]["Statement"])
    )


@rule
def tables_are_safe_and_tidy(template: Document) -> Iterator[str]:
    for name, table in of_type(template, "AWS::DynamoDB::Table"):
        if not table.get("SSESpecification", {}).get("SSEEnabled"):
            yield f"{name}: isn't encrypted with a key that can be audited; set SSESpecification"
        if not table.get("TimeToLiveSpecification", {}).get("Enabled"):
            yield f"{name}: grows for ever; give it a TimeToLiveSpecification"
        if not table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
            yield f"{name}: can't be brought back; set PointInTimeRecoverySpecification"


@rule
def machines_are_traced_and_logged(template: Document) -> Iterator[str]:
    groups = dict(of_type(template, "AWS::Logs::LogGroup"))
    for name, machine in of_type(template, "AWS::Serverless::StateMachine"):
        if not machine.get("Tracing", {}).get("Enabled"):
            yield f"{name}: isn't traced; set Tracing to Enabled"
        if "DefinitionUri" not in machine:
            yield f"{name}: its definition isn't in statemachines/, where the lint looks; use DefinitionUri"
        logging = machine.get("Logging", {})
        found = [
            found_["CloudWatchLogsLogGroup"]["LogGroupArn"] for found_ in logging.get("Destinations", [])
        ]
        if logging.get("Level") in (None, "OFF") or not {target(arn) for arn in found} & set(groups):
            yield f"{name}: logs nothing; give it Logging with a Level and a log group of this template"
        if logging.get("IncludeExecutionData"):
            yield f"{name}: logs rows; set IncludeExecutionData to false"


@rule
def apis_let_nobody_in_unsigned(template: Document) -> Iterator[str]:
    for name, api in of_type(template, "AWS::Serverless::Api"):
        if api.get("Auth", {}).get("DefaultAuthorizer") != "AWS_IAM":
            yield f"{name}: takes requests that nobody signed; set Auth.DefaultAuthorizer to AWS_IAM"
        if not api.get("TracingEnabled"):
            yield f"{name}: isn't traced; set TracingEnabled"
        if "AccessLogSetting" not in api:
            yield f"{name}: keeps no access log; give it an AccessLogSetting"
        if not any("ThrottlingRateLimit" in found for found in api.get("MethodSettings", [])):
            yield f"{name}: isn't throttled; give its MethodSettings a ThrottlingRateLimit"
        if any("DataTraceEnabled" in found for found in api.get("MethodSettings", [])):
            yield f"{name}: logs rows; remove DataTraceEnabled"
    for name, function in of_type(template, "AWS::Serverless::Function"):
        for event, source in function.get("Events", {}).items():
            if "Auth" in source.get("Properties", {}) or source["Type"] == "HttpApi":
                yield f"{name}.{event}: has an authorizer of its own; leave it to the API"
        if "FunctionUrlConfig" in function:
            yield f"{name}: can be called around the API; remove FunctionUrlConfig"


@rule
def parameters_explain_themselves(template: Document) -> Iterator[str]:
    for name, parameter in template.get("Parameters", {}).items():
        for need in ("Description", "Default"):
            if need not in parameter:
                yield f"{name}: has no {need}; give it one"


# --- the template, and what the rules notice ---


@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
def test_the_template_keeps(check: Rule) -> None:
    template = unrolled(yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8")))

    assert list(check(template)) == []


GOOD: Document = yaml_parse("""
Parameters:
  Days: { Type: Number, Default: 30, Description: How long logs are kept. }
Globals:
  Function: { Tracing: Active, LoggingConfig: { LogFormat: JSON, LogGroup: !Ref Logs } }
Resources:
  Logs: { Type: AWS::Logs::LogGroup, Properties: { RetentionInDays: !Ref Days } }
  Api:
    Type: AWS::Serverless::Api
    Properties:
      Auth: { DefaultAuthorizer: AWS_IAM }
      TracingEnabled: true
      AccessLogSetting: { DestinationArn: !GetAtt Logs.Arn }
      MethodSettings: [{ ThrottlingRateLimit: 1 }]
  Work:
    Type: AWS::Serverless::Function
    Properties:
      Description: Works.
      Handler: batch.process.handler
      Role: !GetAtt Role.Arn
      EventInvokeConfig: { DestinationConfig: { OnFailure: { Type: SQS, Destination: !GetAtt Dead.Arn } } }
      Events:
        Called: { Type: Api, Properties: { RestApiId: !Ref Api } }
        Queued:
          Type: SQS
          Properties: { Queue: !GetAtt Queue.Arn, FunctionResponseTypes: [ReportBatchItemFailures] }
        Streamed:
          Type: DynamoDB
          Properties: { DestinationConfig: { OnFailure: { Destination: !GetAtt Dead.Arn } } }
        Told: { Type: SNS, Properties: { Topic: !Ref Topic } }
  Role:
    Type: AWS::IAM::Role
    Properties:
      ManagedPolicyArns:
        - !Sub arn:${AWS::Partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs
        - !Ref Traces
      Policies:
        - PolicyName: work
          PolicyDocument:
            Statement:
              - { Effect: Allow, Action: [s3:GetObject, s3:PutObject], Resource: !Sub "${Bucket.Arn}/*" }
              - Effect: Allow
                Action: states:DescribeExecution
                Resource: !Sub arn:${AWS::Partition}:states:${AWS::Region}:1:execution:${AWS::StackName}-*
              - Effect: Deny
                Action: s3:*
                Resource: "*"
  Traces:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      PolicyDocument: { Statement: [{ Effect: Allow, Action: xray:PutTraceSegments, Resource: "*" }] }
  Machine:
    Type: AWS::Serverless::StateMachine
    Properties:
      DefinitionUri: statemachines/m.asl.json
      Role: !GetAtt Role.Arn
      Tracing: { Enabled: true }
      Logging:
        Level: ERROR
        IncludeExecutionData: false
        Destinations: [{ CloudWatchLogsLogGroup: { LogGroupArn: !GetAtt Logs.Arn } }]
      Events:
        Landed: { Type: EventBridgeRule, Properties: { DeadLetterConfig: { Arn: !GetAtt Dead.Arn } } }
  Queue:
    Type: AWS::SQS::Queue
    Properties: { RedrivePolicy: { deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 3 } }
  Dead: { Type: AWS::SQS::Queue, Properties: { MessageRetentionPeriod: 1209600 } }
  Topic: { Type: AWS::SNS::Topic, Properties: {} }
  Subscription:
    Type: AWS::SNS::Subscription
    Properties: { RedrivePolicy: { deadLetterTargetArn: !GetAtt Dead.Arn } }
  Rule:
    Type: AWS::Events::Rule
    Properties: { Targets: [{ Arn: !GetAtt Queue.Arn, DeadLetterConfig: { Arn: !GetAtt Dead.Arn } }] }
  Schedule:
    Type: AWS::Scheduler::Schedule
    Properties: { Target: { DeadLetterConfig: { Arn: !GetAtt Dead.Arn } } }
  Mapping: { Type: AWS::Lambda::EventSourceMapping, Properties: { EventSourceArn: !GetAtt Queue.Arn } }
  Bucket:
    Type: AWS::S3::Bucket
    Properties:
      BucketEncryption: { ServerSideEncryptionConfiguration: [{}] }
      PublicAccessBlockConfiguration:
        BlockPublicAcls: true
        BlockPublicPolicy: true
        IgnorePublicAcls: true
        RestrictPublicBuckets: true
      LifecycleConfiguration:
        Rules:
          - { Status: Enabled, ExpirationInDays: 1 }
          - { Status: Enabled, AbortIncompleteMultipartUpload: { DaysAfterInitiation: 1 } }
  BucketPolicy:
    Type: AWS::S3::BucketPolicy
    Properties:
      Bucket: !Ref Bucket
      PolicyDocument:
        Statement:
          - Effect: Deny
            Principal: "*"
            Action: s3:*
            Resource: [!GetAtt Bucket.Arn, !Sub "${Bucket.Arn}/*"]
            Condition: { Bool: { aws:SecureTransport: "false" } }
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      SSESpecification: { SSEEnabled: true }
      TimeToLiveSpecification: { Enabled: true }
      PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true }
""")  # fmt: skip

WORK, QUEUED = "Resources.Work.Properties", "Resources.Work.Properties.Events.Queued.Properties"
STATEMENTS = "Resources.Role.Properties.Policies[0].PolicyDocument.Statement"
BUCKET, TLS = "Resources.Bucket.Properties", "Resources.BucketPolicy.Properties.PolicyDocument.Statement[0]"
MACHINE, API = "Resources.Machine.Properties", "Resources.Api.Properties"
ALL_BUCKETS = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::*"}
EVERY_TABLE = {
    "Effect": "Allow",
    "Action": "dynamodb:GetItem",
    "Resource": {"Fn::Sub": "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:*"},
}
MAYBE_ALL = {"Effect": "Allow", "Action": "sns:Publish", "Resource": {"Fn::If": ["C", {"Ref": "Topic"}, "*"]}}

MISTAKES: list[tuple[Edit, str]] = [
    (drop("Resources.Logs.Properties", "RetentionInDays"), "Logs: logs are kept for ever"),
    (put("Globals.Function", LoggingConfig={"LogFormat": "JSON"}), "Work: logs to a group that isn't here"),
    (put(WORK, LoggingConfig={"LogGroup": {"Ref": "Logs"}}), "Work: logs text"),
    (put(WORK, Handler="batch.proces.handler"), "Work: there is no lambdas/batch/proces.py"),
    (drop("Globals.Function", "Tracing"), "Work: isn't traced"),
    (drop(WORK, "Description"), "Work: has no Description"),
    (put(f"{STATEMENTS}[0]", Resource="*"), "Role: allows s3:GetObject on everything"),
    (drop(f"{STATEMENTS}[0]", "Resource"), "Role: allows s3:GetObject on everything"),
    (put(f"{STATEMENTS}[0]", Action="s3:*"), "Role: allows s3:*; name each action"),
    (drop(f"{STATEMENTS}[0]", "Action"), "Role: allows all but a few actions"),
    (insert(STATEMENTS, 0, ALL_BUCKETS), "Role: allows s3:GetObject on everything"),
    (insert(STATEMENTS, 0, EVERY_TABLE), "Role: allows dynamodb:GetItem on everything"),
    (insert(STATEMENTS, 0, MAYBE_ALL), "Role: allows sns:Publish on everything"),
    (put(WORK, Policies=[{"Statement": [ALL_BUCKETS]}]), "Work: allows s3:GetObject on everything"),
    (put("Resources.Traces.Properties.PolicyDocument.Statement[0]", Action="xray:PutTrace"),
     "Traces: allows xray:PutTrace on everything"),
    (insert("Resources.Role.Properties.ManagedPolicyArns", 0, "arn:aws:iam::aws:policy/AdministratorAccess"),
     "Role: has the AWS policy arn:aws:iam::aws:policy/AdministratorAccess"),
    (put(WORK, Policies=["AmazonS3FullAccess"]), "Work: has the AWS policy AmazonS3FullAccess"),
    (drop(WORK, "Role"), "Work: has no Role of its own"),
    (drop("Resources.Queue.Properties", "RedrivePolicy"), "Queue: has no dead-letter queue"),
    (drop("Resources.Queue.Properties.RedrivePolicy", "maxReceiveCount"), "Queue: has no dead-letter queue"),
    (drop("Resources.Dead.Properties", "MessageRetentionPeriod"), "Dead: forgets what failed"),
    (drop(f"{MACHINE}.Events.Landed.Properties", "DeadLetterConfig"), "Machine.Landed: events that can't be"),
    (put(QUEUED, FunctionResponseTypes=[]), "Work.Queued: one failure repeats the"),
    (put(QUEUED, Queue="arn:aws:sqs:us-east-1:1:theirs"), "Work.Queued: its queue isn't here"),
    (drop(f"{WORK}.Events.Streamed.Properties", "DestinationConfig"), "Work.Streamed: records that fail"),
    (drop(WORK, "EventInvokeConfig"), "Work.Told: events that fail are lost"),
    (put("Resources.Mapping.Properties", EventSourceArn="x"), "Mapping: records that fail are lost"),
    (drop("Resources.Rule.Properties.Targets[0]", "DeadLetterConfig"), "Rule: events that can't be"),
    (put("Resources.Schedule.Properties", Target={}), "Schedule: events that can't be delivered"),
    (drop("Resources.Subscription.Properties", "RedrivePolicy"), "Subscription: messages that can't"),
    (put("Resources.Topic.Properties", Subscription=[]), "Topic: a subscription in a topic"),
    (drop(BUCKET, "BucketEncryption"), "Bucket: isn't encrypted"),
    (put(f"{BUCKET}.PublicAccessBlockConfiguration", IgnorePublicAcls=False), "Bucket: may be made public"),
    (put(f"{BUCKET}.LifecycleConfiguration.Rules[0]", Status="Disabled"), "with ExpirationInDays"),
    (drop(f"{BUCKET}.LifecycleConfiguration.Rules[1]", "AbortIncompleteMultipartUpload"), "with Abort"),
    (drop("Resources", "BucketPolicy"), "Bucket: can be read without TLS"),
    (put(TLS, Condition={}), "Bucket: can be read without TLS"),
    (put(TLS, Resource=[{"Fn::Sub": "${Bucket.Arn}/*"}]), "Bucket: can be read without TLS"),
    (put("Resources.BucketPolicy.Properties", Bucket={"Ref": "Other"}), "Bucket: can be read without TLS"),
    (drop("Resources.Table.Properties", "SSESpecification"), "Table: isn't encrypted"),
    (drop("Resources.Table.Properties", "TimeToLiveSpecification"), "Table: grows for ever"),
    (drop("Resources.Table.Properties", "PointInTimeRecoverySpecification"), "Table: can't be brought back"),
    (drop(MACHINE, "Tracing"), "Machine: isn't traced"),
    (drop(MACHINE, "DefinitionUri"), "Machine: its definition isn't in statemachines/"),
    (drop(MACHINE, "Logging"), "Machine: logs nothing"),
    (put(f"{MACHINE}.Logging", Level="OFF"), "Machine: logs nothing"),
    (put(f"{MACHINE}.Logging", IncludeExecutionData=True), "Machine: logs rows"),
    (put(API, Auth={}), "Api: takes requests that nobody signed"),
    (drop(API, "TracingEnabled"), "Api: isn't traced"),
    (drop(API, "AccessLogSetting"), "Api: keeps no access log"),
    (put(API, MethodSettings=[]), "Api: isn't throttled"),
    (put(f"{API}.MethodSettings[0]", DataTraceEnabled=True), "Api: logs rows"),
    (put(f"{WORK}.Events.Called.Properties", Auth={"Authorizer": "NONE"}), "Work.Called: has an authorizer"),
    (put(WORK, FunctionUrlConfig={"AuthType": "NONE"}), "Work: can be called around the API"),
    (drop("Parameters.Days", "Description"), "Days: has no Description"),
    (drop("Parameters.Days", "Default"), "Days: has no Default"),
]  # fmt: skip


def complaints(template: Document) -> list[str]:
    return [complaint for check in RULES for complaint in check(template)]


def test_the_rules_are_content_with_what_is_in_order() -> None:
    assert complaints(GOOD) == []


@pytest.mark.parametrize(("mistake", "complaint"), MISTAKES, ids=[complaint for _, complaint in MISTAKES])
def test_the_rules_notice(mistake: Edit, complaint: str) -> None:
    template = copy.deepcopy(GOOD)
    mistake(template)

    found = complaints(template)

    assert [line for line in found if complaint in line], found
    assert all("; " in line for line in found), "a complaint without its remedy"


def test_there_is_a_mistake_for_each_rule() -> None:
    def broken_by(check: Rule, mistake: Edit) -> bool:
        template = copy.deepcopy(GOOD)
        mistake(template)
        return bool(list(check(template)))

    assert [
        check.__name__ for check in RULES if not any(broken_by(check, mistake) for mistake, _ in MISTAKES)
    ] == []
