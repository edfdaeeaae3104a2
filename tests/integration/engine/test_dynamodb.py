"""Amazon DynamoDB on the engine: updates and conditions, batches, the rates of partitions, and IAM."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from stepflake.local.engine import Engine, Settings
from stepflake.local.limits import Value
from tests.dynamodb_cases import (
    CONDITION_NAMES,
    CONDITION_VALUES,
    CONDITIONS,
    ITEM,
    KEY,
    NESTED_UPDATES,
    REFUSED_UPDATES,
    UPDATES,
    used,
)

TABLE, OTHER = "main", "other"
MAX_KEYS, MAX_WRITES = 100, 25
MAX_ITEM_BYTES = 400 << 10

Clients = Callable[..., Any]


@pytest.fixture(scope="module")
def dynamodb(client: Clients) -> Any:
    """With two tables, of which the second is encrypted and has a time to live."""
    made = client("dynamodb")
    for name in (TABLE, OTHER):
        made.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("pk", "sk")],
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            **({"SSESpecification": {"Enabled": True, "SSEType": "KMS"}} if name == OTHER else {}),
        )
    made.update_time_to_live(
        TableName=OTHER, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
    )
    return made


@pytest.fixture
def item(dynamodb: Any) -> Any:
    dynamodb.put_item(TableName=TABLE, Item=ITEM)
    return ITEM


@pytest.fixture
def partition() -> str:
    """A partition that no other test uses."""
    return f"partition-{next(_numbers)}"


_numbers = itertools.count()


def limit(engine: Engine, name: str, size: float, refill: float = 0) -> None:
    engine.configure(Settings(limits={name: Value(size, refill)}))


def code(call: Callable[..., Any], **parameters: Any) -> str:
    """The error that a call ends with, or "" where it succeeds."""
    try:
        call(**parameters)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def stored(dynamodb: Any, key: dict[str, Any] = KEY, table: str = TABLE) -> Any:
    return dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")


def update(
    dynamodb: Any,
    expression: str,
    values: dict[str, Any],
    names: dict[str, str] | None = None,
    **request: Any,
) -> Any:
    if names:
        request["ExpressionAttributeNames"] = names
    if values:
        request["ExpressionAttributeValues"] = values
    answer = dynamodb.update_item(
        TableName=TABLE, Key=KEY, UpdateExpression=expression, ReturnValues="ALL_NEW", **request
    )
    return answer["Attributes"]


def key(partition: str, number: int) -> dict[str, Any]:
    return {"pk": {"S": partition}, "sk": {"S": f"{number:03}"}}


def put(partition: str, number: int, size: int = 1) -> dict[str, Any]:
    return {"PutRequest": {"Item": {**key(partition, number), "body": {"S": "x" * size}}}}


def read(*keys: dict[str, Any], table: str = TABLE) -> dict[str, Any]:
    return {table: {"Keys": list(keys), "ConsistentRead": True}}


# Expressions


@pytest.mark.parametrize(("expression", "values", "changed"), UPDATES)
def test_an_update_returns_the_new_item(
    dynamodb: Any, item: Any, expression: str, values: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert update(dynamodb, expression, values) == stored(dynamodb) == {**item, **changed}


def test_an_update_of_a_nested_path_leaves_the_rest(dynamodb: Any, item: Any) -> None:
    for expression, names, values, holders in NESTED_UPDATES:
        assert update(dynamodb, expression, values, names) == {**item, "holders": {"M": holders}}


@pytest.mark.parametrize(("expression", "values", "why"), REFUSED_UPDATES)
def test_an_update_that_aws_would_refuse_is_refused(
    dynamodb: Any, item: Any, expression: str, values: dict[str, Any], why: str
) -> None:
    with pytest.raises(ClientError, match=rf"ValidationException.*{why}"):
        update(dynamodb, expression, values)

    assert stored(dynamodb) == item


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS)
def test_an_update_is_made_where_its_condition_holds(
    dynamodb: Any, item: Any, condition: str, holds: bool
) -> None:
    values = {":new": {"S": "b"}, **used(condition, CONDITION_VALUES)}
    names = used(condition, CONDITION_NAMES)

    if holds:
        changed = update(dynamodb, "SET m = :new", values, names, ConditionExpression=condition)
        assert changed == {**item, "m": {"S": "b"}}
        return
    with pytest.raises(dynamodb.exceptions.ConditionalCheckFailedException) as refused:
        update(
            dynamodb,
            "SET m = :new",
            values,
            names,
            ConditionExpression=condition,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    assert refused.value.response["Item"] == stored(dynamodb) == item


# Batches


def test_batches_of_two_tables(dynamodb: Any, partition: str) -> None:
    requests = [put(partition, number) for number in range(MAX_WRITES)]

    written = dynamodb.batch_write_item(RequestItems={TABLE: requests[:10], OTHER: requests[10:]})
    found = dynamodb.batch_get_item(
        RequestItems={
            **read(*(key(partition, number) for number in range(50))),
            **read(*(key(partition, number) for number in range(50)), table=OTHER),
        }
    )

    assert (written["UnprocessedItems"], found["UnprocessedKeys"]) == ({}, {})
    assert {table: len(items) for table, items in found["Responses"].items()} == {TABLE: 10, OTHER: 15}

    dynamodb.batch_write_item(RequestItems={TABLE: [{"DeleteRequest": {"Key": key(partition, 1)}}]})
    assert stored(dynamodb, key(partition, 1)) is None


def test_a_batch_of_keys_that_aws_would_refuse(dynamodb: Any, partition: str) -> None:
    keys = [key(partition, number) for number in range(MAX_KEYS + 1)]
    batches = {
        "too many": read(*keys),
        "too many, of two tables": {**read(*keys[:60]), **read(*keys[:60], table=OTHER)},
        "one key twice": read(keys[0], keys[1], keys[0]),
        "half a key": read({"pk": {"S": partition}}),
    }

    for name, asked in batches.items():
        assert code(dynamodb.batch_get_item, RequestItems=asked) == "ValidationException", name
    none = read(keys[0], table="none")
    assert code(dynamodb.batch_get_item, RequestItems=none) == "ResourceNotFoundException"


def test_a_batch_of_writes_that_aws_would_refuse_writes_nothing(dynamodb: Any, partition: str) -> None:
    first = put(partition, 0)
    batches = {
        "too many": [put(partition, number) for number in range(MAX_WRITES + 1)],
        "one key twice": [first, {"DeleteRequest": {"Key": key(partition, 0)}}],
        "an item that is too large": [first, put(partition, 1, MAX_ITEM_BYTES)],
        "half a key": [first, {"DeleteRequest": {"Key": {"pk": {"S": partition}}}}],
    }

    for name, requests in batches.items():
        assert code(dynamodb.batch_write_item, RequestItems={TABLE: requests}) == "ValidationException", name
        assert stored(dynamodb, key(partition, 0)) is None


def test_a_batch_returns_at_most_16_mb(engine: Engine, dynamodb: Any, partition: str) -> None:
    engine.configure(Settings(has_limits=False))
    for number in range(50):
        dynamodb.put_item(TableName=TABLE, Item=put(partition, number, 399_000)["PutRequest"]["Item"])

    asked = read(*(key(partition, number) for number in range(50)))
    answer = dynamodb.batch_get_item(RequestItems=asked)

    first, left = answer["Responses"][TABLE], answer["UnprocessedKeys"]
    assert len(first) == 42
    rest = dynamodb.batch_get_item(RequestItems=left)
    assert len(rest["Responses"][TABLE]) == 8
    assert not rest["UnprocessedKeys"]


# Rates


def test_rate_of_a_partition(engine: Engine, dynamodb: Any) -> None:
    limit(engine, "dynamodb.PartitionWrites", 4)
    limit(engine, "dynamodb.PartitionReads", 1)
    numbers = itertools.count()

    def put_one(partition: str, data: str = "") -> str:
        item = {"pk": {"S": partition}, "sk": {"S": str(next(numbers))}, "data": {"S": data}}
        return code(dynamodb.put_item, TableName=TABLE, Item=item)

    def get(*, consistent: bool) -> str:
        key = {"pk": {"S": "a"}, "sk": {"S": "0"}}
        return code(dynamodb.get_item, TableName=TABLE, Key=key, ConsistentRead=consistent)

    writes = [put_one("a"), put_one("a", "x" * 2500), put_one("a")]
    assert writes == ["", "", "ThrottlingException"], "1 and 3 units"
    assert put_one("b") == "", "another partition has a rate of its own"
    assert [get(consistent=False) for _ in range(3)] == ["", "", "ThrottlingException"], "half a unit each"

    limit(engine, "dynamodb.PartitionWrites", 1000)
    assert put_one("large", "x" * 20_000) == ""
    limit(engine, "dynamodb.PartitionReads", 1, refill=1)
    query = {
        "TableName": TABLE,
        "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": {"S": "large"}},
    }
    codes = [code(dynamodb.query, **query, ConsistentRead=True) for _ in range(2)]
    assert codes == ["", "ThrottlingException"], "its 20 KB are five units, known only afterwards"


def test_what_exceeds_a_partitions_rate_is_left_of_a_batch_of_keys(
    engine: Engine, dynamodb: Any, partition: str
) -> None:
    keys = [key(partition, number) for number in range(3)]
    other = key(f"{partition}-other", 0)
    for each in (*keys, other):
        dynamodb.put_item(TableName=TABLE, Item=each)
    limit(engine, "dynamodb.PartitionReads", 2)

    answer = dynamodb.batch_get_item(RequestItems=read(*keys, other))

    assert answer["Responses"][TABLE] == [*keys[:2], other]
    assert answer["UnprocessedKeys"] == read(keys[2])
    assert code(dynamodb.batch_get_item, RequestItems=read(keys[2])) == "ThrottlingException"
    limit(engine, "dynamodb.PartitionReads", 2)
    again = dynamodb.batch_get_item(RequestItems=answer["UnprocessedKeys"])
    assert (again["Responses"], again["UnprocessedKeys"]) == ({TABLE: [keys[2]]}, {})


def test_a_large_item_of_a_batch_takes_its_units(engine: Engine, dynamodb: Any, partition: str) -> None:
    dynamodb.put_item(TableName=TABLE, Item=put(partition, 0, 20_000)["PutRequest"]["Item"])
    limit(engine, "dynamodb.PartitionReads", 2)

    keys = [key(partition, number) for number in range(2)]

    answer = dynamodb.batch_get_item(RequestItems=read(*keys))
    assert answer["UnprocessedKeys"] == read(keys[1]), "20 KB are five units"


def test_what_exceeds_a_partitions_rate_is_left_of_a_batch_of_writes(
    engine: Engine, dynamodb: Any, partition: str
) -> None:
    other = f"{partition}-other"
    requests = [put(partition, 0), put(partition, 1, 2500), put(partition, 2), put(other, 0)]
    limit(engine, "dynamodb.PartitionWrites", 4)

    left = dynamodb.batch_write_item(RequestItems={TABLE: requests})["UnprocessedItems"]

    assert left == {TABLE: [requests[2]]}, "1 and 3 units"
    assert stored(dynamodb, key(partition, 2)) is None
    assert stored(dynamodb, key(other, 0))
    assert code(dynamodb.batch_write_item, RequestItems=left) == "ThrottlingException"
    limit(engine, "dynamodb.PartitionWrites", 4)
    assert dynamodb.batch_write_item(RequestItems=left)["UnprocessedItems"] == {}
    assert stored(dynamodb, key(partition, 2))


def test_an_invalid_batch_is_refused_whatever_its_partition_has_left(
    engine: Engine, dynamodb: Any, partition: str
) -> None:
    limit(engine, "dynamodb.PartitionWrites", 1)
    limit(engine, "dynamodb.PartitionReads", 1)
    twice = [put(partition, 0), put(partition, 0)]
    keys = [key(partition, 0)] * 2

    assert code(dynamodb.batch_write_item, RequestItems={TABLE: twice}) == "ValidationException"
    assert code(dynamodb.batch_get_item, RequestItems=read(*keys)) == "ValidationException"


# The second table


def test_a_table_has_a_time_to_live_and_a_key_without_backups(dynamodb: Any) -> None:
    table = dynamodb.describe_table(TableName=OTHER)["Table"]
    lives = dynamodb.describe_time_to_live(TableName=OTHER)["TimeToLiveDescription"]
    backups = dynamodb.describe_continuous_backups(TableName=OTHER)["ContinuousBackupsDescription"]

    assert table["SSEDescription"]["Status"] == "ENABLED"
    assert lives == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "DISABLED"


def test_a_role_needs_the_right_on_each_table_of_a_batch(
    client: Clients, dynamodb: Any, partition: str
) -> None:
    iam, sts = client("iam"), client("sts")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
    allowed = {
        "Effect": "Allow",
        "Action": ["dynamodb:BatchGetItem", "dynamodb:BatchWriteItem"],
        "Resource": f"arn:aws:dynamodb:us-east-1:000000000000:table/{OTHER}",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_role_policy(RoleName="reader", PolicyName="p", PolicyDocument=policy)
    keys = sts.assume_role(RoleArn=role["Role"]["Arn"], RoleSessionName="test")["Credentials"]
    reader = client(
        "dynamodb",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    one, request = key(partition, 0), put(partition, 0)

    def get(*tables: str) -> str:
        asked = {name: part for table in tables for name, part in read(one, table=table).items()}
        return code(reader.batch_get_item, RequestItems=asked)

    def write(*tables: str) -> str:
        asked = {table: [request] for table in tables}
        return code(reader.batch_write_item, RequestItems=asked)

    assert [get(OTHER), get(TABLE), get(OTHER, TABLE)] == ["", *["AccessDeniedException"] * 2]
    assert [write(OTHER), write(TABLE), write(OTHER, TABLE)] == ["", *["AccessDeniedException"] * 2]
    assert code(reader.put_item, TableName=OTHER, Item=one) == "AccessDeniedException"
