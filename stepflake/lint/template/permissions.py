"""What roles and policies allow: single actions on named resources."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import (
    FUNCTION,
    STATE_MACHINE,
    Document,
    Template,
    alternatives,
    substituted,
)

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


def identities_have_no_aws_policies(template: Template) -> Iterator[Finding]:
    for name, resource in template.resources.items():
        properties = resource.get("Properties", {})
        attached = alternatives(properties.get("ManagedPolicyArns", []))
        attached += [p for p in alternatives(properties.get("Policies", [])) if not isinstance(p, Mapping)]
        for policy in attached:
            text = substituted(policy) or policy
            if isinstance(text, str) and text.partition(":policy/")[2] not in AWS_POLICIES:
                yield Finding(name, f"has the AWS policy {text}", "write the statements that it needs")
    for name, owner in template.of_type(FUNCTION, STATE_MACHINE):
        if "Role" not in owner and "Policies" not in owner:
            yield Finding(name, "has no Role of its own", "give it one")


def _is_everything(resource: Any) -> bool:
    """Whether a Resource is `*`, or an ARN that ends with `*` where the name should be."""
    text = substituted(resource) or resource
    if not isinstance(text, str):
        return False
    without_variables = re.sub(r"\$\{[^}]*\}", "variable", text)
    return set(without_variables.split(":", maxsplit=5)[-1]) <= set("*:/")
