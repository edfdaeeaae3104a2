"""What stores data: encrypted, private, restorable, and with an end to what it keeps."""

from collections.abc import Iterator, Sequence
from typing import Any

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import STATE_MACHINE, Document, Template, alternatives, target
from stepflake.lint.values import mapping

_BUCKET, _TABLE = "AWS::S3::Bucket", "AWS::DynamoDB::Table"
_QUEUE, _TOPIC = "AWS::SQS::Queue", "AWS::SNS::Topic"
_PUBLIC_ACCESS = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")

# Where each resource says with which KMS key it encrypts what it stores.
_KEYS = {
    _BUCKET: "BucketEncryption.ServerSideEncryptionConfiguration"
    ".ServerSideEncryptionByDefault.KMSMasterKeyID",
    _TABLE: "SSESpecification.KMSMasterKeyId",
    _QUEUE: "KmsMasterKeyId",
    _TOPIC: "KmsMasterKeyId",
    "AWS::Logs::LogGroup": "KmsKeyId",
    STATE_MACHINE: "EncryptionConfiguration.KmsKeyId",
}
# The policy of what is reached by HTTP: its type, where it says whose it is, and the action to deny.
# SNS takes no sns:* in a policy. https://docs.aws.amazon.com/sns/latest/dg/sns-security-best-practices.html
_POLICIES = {
    _BUCKET: ("AWS::S3::BucketPolicy", "Bucket", "s3:*"),
    _QUEUE: ("AWS::SQS::QueuePolicy", "Queues", "sqs:*"),
    _TOPIC: ("AWS::SNS::TopicPolicy", "Topics", "sns:Publish"),
}


def buckets_are_private_and_expire(template: Template) -> Iterator[Finding]:
    for name, bucket in template.of_type(_BUCKET):
        if not mapping(bucket.get("BucketEncryption")).get("ServerSideEncryptionConfiguration"):
            yield Finding(name, "isn't encrypted", "give it BucketEncryption")
        access = mapping(bucket.get("PublicAccessBlockConfiguration"))
        for switch in _PUBLIC_ACCESS:
            if access.get(switch) is not True:
                yield Finding(name, "may be made public", f"set {switch} to true")
        rules = alternatives(mapping(bucket.get("LifecycleConfiguration")).get("Rules", []))
        for need in ("ExpirationInDays", "AbortIncompleteMultipartUpload"):
            if not any(need in rule for rule in rules if rule.get("Status") == "Enabled"):
                yield Finding(name, "grows for ever", f"give it a lifecycle rule with {need}")


def tables_are_encrypted_and_expire(template: Template) -> Iterator[Finding]:
    for name, table in template.of_type(_TABLE):
        if not mapping(table.get("SSESpecification")).get("SSEEnabled"):
            yield Finding(name, "isn't encrypted with a key that can be audited", "set SSESpecification")
        if not mapping(table.get("TimeToLiveSpecification")).get("Enabled"):
            yield Finding(name, "grows for ever", "give it a TimeToLiveSpecification")
        recovery = mapping(table.get("PointInTimeRecoverySpecification"))
        is_backed_up = recovery.get("PointInTimeRecoveryEnabled")
        if not is_backed_up and not _is_only_a_copy(template.resources[name]):
            yield Finding(name, "can't be restored", "set PointInTimeRecoverySpecification")


def queues_are_encrypted(template: Template) -> Iterator[Finding]:
    for name, queue in template.of_type(_QUEUE):
        key = queue.get("KmsMasterKeyId")
        always = key and {"Ref": "AWS::NoValue"} not in mapping(key).get("Fn::If", [])
        if not queue.get("SqsManagedSseEnabled") and not always:
            yield Finding(name, "isn't encrypted by its own setting", "set SqsManagedSseEnabled to true")


def what_is_stored_can_have_a_key(template: Template) -> Iterator[Finding]:
    for kind, path in _KEYS.items():
        for name, properties in template.of_type(kind):
            if not _at(properties, path.split(".")):
                yield Finding(name, "isn't encrypted with the stack's KMS key, if it has one", f"set {path}")
    for name, _ in template.of_type("AWS::Serverless::StateMachine"):
        problem = "SAM's resource has no EncryptionConfiguration for the stack's KMS key"
        yield Finding(name, problem, f"use {STATE_MACHINE}")


def what_is_stored_outlives_the_stack(template: Template) -> Iterator[Finding]:
    for name, resource in template.resources.items():
        if resource["Type"] in (_BUCKET, _TABLE) and not _is_only_a_copy(resource):
            if resource.get("DeletionPolicy") != "RetainExceptOnCreate":
                remedy = "set DeletionPolicy to RetainExceptOnCreate"
                yield Finding(name, "is deleted with the stack, or left over by one that failed", remedy)
            if resource.get("UpdateReplacePolicy") != "Retain":
                yield Finding(name, "is deleted when it is replaced", "set UpdateReplacePolicy to Retain")


def _is_only_a_copy(resource: Document) -> bool:
    """Whether it says that it may go: a table of what can be computed again."""
    policies = {resource.get(policy) for policy in ("DeletionPolicy", "UpdateReplacePolicy")}
    return resource["Type"] == _TABLE and policies == {"Delete"}


def plain_http_is_refused(template: Template) -> Iterator[Finding]:
    for kind, (policy_kind, owners, action) in _POLICIES.items():
        policies = [policy for _, policy in template.of_type(policy_kind)]
        for name, _ in template.of_type(kind):
            own = [policy for policy in policies if name in map(target, alternatives(policy[owners]))]
            if len(own) > 1:
                yield Finding(
                    name, "has two policies, of which AWS keeps one", f"merge them into one {policy_kind}"
                )
            if not any(_refuses_plain_http(policy, name, action) for policy in own):
                remedy = f"deny {action} in a policy where aws:SecureTransport is false"
                yield Finding(name, "can be used without TLS", remedy)


def _refuses_plain_http(policy: Document, name: str, action: str) -> bool:
    return any(
        statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement["Action"] == action
        and statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") in ("false", False)
        and name in map(target, resources)
        # Of a bucket both: itself, and its objects.
        and (action != "s3:*" or {"Fn::GetAtt", "Fn::Sub"} <= {key for item in resources for key in item})
        for statement in alternatives(policy["PolicyDocument"]["Statement"])
        for resources in [alternatives(statement["Resource"])]
    )


def _at(value: Any, path: Sequence[str]) -> list[Any]:
    """What is at a path, in each item of a list on the way."""
    found = alternatives(value)
    for step in path:
        found = [below for item in found for below in alternatives(mapping(item).get(step))]
    return found
