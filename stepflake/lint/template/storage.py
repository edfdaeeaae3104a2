"""Buckets, tables and queues: encrypted, private, restorable, and with an end to what they keep."""

from collections.abc import Iterator

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import Document, Template, alternatives, target
from stepflake.lint.values import mapping

_PUBLIC_ACCESS = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")


def buckets_are_private_and_expire(template: Template) -> Iterator[Finding]:
    policies = [policy for _, policy in template.of_type("AWS::S3::BucketPolicy")]
    for name, bucket in template.of_type("AWS::S3::Bucket"):
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
        if not any(_refuses_plain_http(policy, name) for policy in policies):
            remedy = "deny it in a bucket policy (aws:SecureTransport)"
            yield Finding(name, "can be read without TLS", remedy)


def tables_are_encrypted_and_expire(template: Template) -> Iterator[Finding]:
    for name, table in template.of_type("AWS::DynamoDB::Table"):
        if not mapping(table.get("SSESpecification")).get("SSEEnabled"):
            yield Finding(name, "isn't encrypted with a key that can be audited", "set SSESpecification")
        if not mapping(table.get("TimeToLiveSpecification")).get("Enabled"):
            yield Finding(name, "grows for ever", "give it a TimeToLiveSpecification")
        if not mapping(table.get("PointInTimeRecoverySpecification")).get("PointInTimeRecoveryEnabled"):
            yield Finding(name, "can't be restored", "set PointInTimeRecoverySpecification")


def queues_are_encrypted(template: Template) -> Iterator[Finding]:
    for name, queue in template.of_type("AWS::SQS::Queue"):
        if not queue.get("SqsManagedSseEnabled") and "KmsMasterKeyId" not in queue:
            yield Finding(name, "isn't encrypted by its own setting", "set SqsManagedSseEnabled to true")


def _refuses_plain_http(policy: Document, bucket: str) -> bool:
    return target(policy["Bucket"]) == bucket and any(
        statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement["Action"] == "s3:*"
        and statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport") in ("false", False)
        and {"GetAtt", "Sub"}
        <= {key.removeprefix("Fn::") for resource in statement["Resource"] for key in resource}
        and {target(resource) for resource in statement["Resource"]} == {bucket}
        for statement in alternatives(policy["PolicyDocument"]["Statement"])
    )
