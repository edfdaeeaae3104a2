"""What roles and policies allow: single actions on named resources."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import (
    FUNCTION,
    Document,
    Template,
    alternatives,
    substituted,
)
from stepflake.lint.values import mapping

# Actions that IAM cannot restrict to a resource, each with the reason.
WITHOUT_RESOURCE = {
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsx-ray.html
    "xray:GetSamplingRules": "X-Ray keeps segments by account",
    "xray:GetSamplingTargets": "X-Ray keeps segments by account",
    "xray:PutTelemetryRecords": "X-Ray keeps segments by account",
    "xray:PutTraceSegments": "X-Ray keeps segments by account",
    # https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
    "logs:CreateLogDelivery": "deliveries of vended logs have no ARN",
    "logs:DeleteLogDelivery": "deliveries of vended logs have no ARN",
    "logs:DescribeLogGroups": "Step Functions needs it on * to set up a machine's logs",
    "logs:DescribeResourcePolicies": "resource policies of logs belong to the account",
    "logs:GetLogDelivery": "deliveries of vended logs have no ARN",
    "logs:ListLogDeliveries": "deliveries of vended logs have no ARN",
    "logs:PutResourcePolicy": "resource policies of logs belong to the account",
    "logs:UpdateLogDelivery": "deliveries of vended logs have no ARN",
    # https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncomprehend.html
    "comprehend:BatchDetectSentiment": "actions on texts have no resource",
    "comprehend:DetectDominantLanguage": "actions on texts have no resource",
    "comprehend:DetectSentiment": "actions on texts have no resource",
    # On AWS the template names the machine; it has * only under the condition of the local engine.
    "states:SendTaskFailure": "the local engine does not know which machine a task token belongs to",
    "states:SendTaskSuccess": "the local engine does not know which machine a task token belongs to",
}
# AWS's own policies that may be attached, each with the reason.
AWS_POLICIES = {
    "service-role/AmazonAPIGatewayPushToCloudWatchLogs": "API Gateway's documentation asks for it",
}
# What DynamoDB can restrict to items by their partition key.
_ON_ITEMS = re.compile(r"dynamodb:(Batch)?(Get|Put|Update|Delete|Write)Item|dynamodb:Query")
# Another stack's name may begin with this one's: a * must come after something that no stack's name has.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateStack.html
_OF_OTHER_STACKS = re.compile(r"\$\{AWS::StackName\}[A-Za-z0-9-]*\*")


def statements(template: Template) -> Iterator[tuple[str, Document]]:
    """Every statement of an identity's policy. SAM's short forms count too: a function may have either."""
    for name, resource in template.resources.items():
        properties = resource.get("Properties", {})
        documents = [properties.get("PolicyDocument")] if resource["Type"].startswith("AWS::IAM::") else []
        for policy in alternatives(properties.get("Policies", [])):
            documents.append(policy.get("PolicyDocument", policy) if isinstance(policy, Mapping) else None)
        for document in alternatives(documents):
            for statement in alternatives(document.get("Statement", [])):
                yield name, statement


def permissions_name_their_resources(template: Template) -> Iterator[Finding]:
    for name, statement in statements(template):
        if statement.get("Effect") == "Deny":
            continue
        actions = alternatives(statement.get("Action", []))
        if not actions:
            yield Finding(name, "allows all but a few actions", "list them as Action")
        for action in actions:
            if "*" in action:
                yield Finding(name, f"allows {action}", "name each action")
        resources = alternatives(statement.get("Resource", []))
        if not resources or any(_is_everything(resource) for resource in resources):
            for action in actions:
                if action not in WITHOUT_RESOURCE:
                    yield Finding(name, f"allows {action} on everything", "name the Resource")


def permissions_are_for_this_stack(template: Template) -> Iterator[Finding]:
    for name, statement in statements(template):
        for resource in alternatives(statement.get("Resource", [])):
            if _OF_OTHER_STACKS.search(substituted(resource) or ""):
                problem = f"what it names may be another stack's: {substituted(resource)}"
                yield Finding(name, problem, "write the name in full, or end it with _ before the *")


def permissions_name_their_items(template: Template) -> Iterator[Finding]:
    for name, statement in statements(template):
        conditions = mapping(statement.get("Condition")).values()
        if any("dynamodb:LeadingKeys" in mapping(condition) for condition in conditions):
            continue
        for action in alternatives(statement.get("Action", [])):
            if _ON_ITEMS.fullmatch(action):
                remedy = "give it a Condition on dynamodb:LeadingKeys"
                yield Finding(name, f"allows {action} on every item", remedy)


def identities_have_no_aws_policies(template: Template) -> Iterator[Finding]:
    for name, resource in template.resources.items():
        properties = resource.get("Properties", {})
        attached = alternatives(properties.get("ManagedPolicyArns", []))
        attached += [p for p in alternatives(properties.get("Policies", [])) if not isinstance(p, Mapping)]
        for policy in attached:
            text = substituted(policy) or policy
            if isinstance(text, str) and text.partition(":policy/")[2] not in AWS_POLICIES:
                yield Finding(name, f"has the AWS policy {text}", "write the statements that it needs")
    for name, function in template.of_type(FUNCTION):
        if "Role" not in function and "Policies" not in function:
            yield Finding(name, "has no Role of its own", "give it one")


def _is_everything(resource: Any) -> bool:
    """Whether a Resource is `*`, or an ARN that ends with `*` where the name should be."""
    text = substituted(resource) or resource
    if not isinstance(text, str):
        return False
    without_variables = re.sub(r"\$\{[^}]*\}", "variable", text)
    return set(without_variables.split(":", maxsplit=5)[-1]) <= set("*:/")
