"""That DynamoDB in memory answers as AWS does: what the Lambdas' own tests rely on without noticing it."""

from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

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
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.dynamodb import (
    MAX_BATCH_KEYS,
    MAX_BATCH_REQUESTS,
    MAX_ITEM_BYTES,
    REUSE_TABLE,
    TABLE,
)


@pytest.fixture
def client(aws: FakeAws) -> Any:
    """With one item in the main table."""
    client = boto3.client("dynamodb")
    client.put_item(TableName=TABLE, Item=ITEM)
    return client


def stored(client: Any, key: dict[str, Any] = KEY, table: str = TABLE) -> Any:
    return client.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")


def update(
    client: Any, expression: str, values: dict[str, Any], names: dict[str, str] | None = None, **request: Any
) -> Any:
    if names:
        request["ExpressionAttributeNames"] = names
    if values:
        request["ExpressionAttributeValues"] = values
    answer = client.update_item(
        TableName=TABLE, Key=KEY, UpdateExpression=expression, ReturnValues="ALL_NEW", **request
    )
    return answer["Attributes"]


def key(number: int) -> dict[str, Any]:
    return {"pk": {"S": "p"}, "sk": {"S": f"{number:03}"}}


def put(number: int, size: int = 1) -> dict[str, Any]:
    return {"PutRequest": {"Item": {**key(number), "body": {"S": "x" * size}}}}


def batch_of(numbers: range | list[int]) -> dict[str, Any]:
    return {"RequestItems": {TABLE: {"Keys": [key(number) for number in numbers], "ConsistentRead": True}}}


def test_the_tables_are_apart(aws: FakeAws, client: Any) -> None:
    client.put_item(TableName=REUSE_TABLE, Item={**KEY, "n": {"N": "1"}})

    assert stored(client) == ITEM
    assert stored(client, table=REUSE_TABLE) == {**KEY, "n": {"N": "1"}}
    assert (len(aws.dynamodb.items), len(aws.dynamodb.reuse_items)) == (1, 1)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        stored(client, table="another")


@pytest.mark.parametrize(("expression", "values", "changed"), UPDATES)
def test_an_update_returns_the_new_item(
    client: Any, expression: str, values: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert update(client, expression, values) == stored(client) == {**ITEM, **changed}


def test_an_update_without_an_item_makes_one(client: Any) -> None:
    client.delete_item(TableName=TABLE, Key=KEY)

    assert update(client, "ADD n :n", {":n": {"N": "2"}}) == stored(client) == {**KEY, "n": {"N": "2"}}


def test_an_update_of_a_nested_path_leaves_the_rest(client: Any) -> None:
    for expression, names, values, holders in NESTED_UPDATES:
        assert update(client, expression, values, names) == {**ITEM, "holders": {"M": holders}}


@pytest.mark.parametrize(("expression", "values", "why"), REFUSED_UPDATES)
def test_an_update_that_aws_would_refuse_is_refused(
    client: Any, expression: str, values: dict[str, Any], why: str
) -> None:
    with pytest.raises(ClientError, match=rf"ValidationException.*{why}"):
        update(client, expression, values)

    assert stored(client) == ITEM


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS)
def test_an_update_is_made_where_its_condition_holds(client: Any, condition: str, holds: bool) -> None:
    values = {":new": {"S": "b"}, **used(condition, CONDITION_VALUES)}
    names = used(condition, CONDITION_NAMES)

    if holds:
        changed = update(client, "SET m = :new", values, names, ConditionExpression=condition)
        assert changed == {**ITEM, "m": {"S": "b"}}
        return
    with pytest.raises(client.exceptions.ConditionalCheckFailedException) as refused:
        update(
            client,
            "SET m = :new",
            values,
            names,
            ConditionExpression=condition,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    assert refused.value.response["Item"] == stored(client) == ITEM


def test_a_batch_returns_the_items_that_exist(client: Any) -> None:
    for number in range(3):
        client.put_item(TableName=TABLE, Item={**key(number), "n": {"N": str(number)}})

    answer = client.batch_get_item(**batch_of(range(MAX_BATCH_KEYS)))

    assert sorted(item["n"]["N"] for item in answer["Responses"][TABLE]) == ["0", "1", "2"]
    assert answer["UnprocessedKeys"] == {}


def test_a_batch_puts_and_deletes(client: Any) -> None:
    client.put_item(TableName=TABLE, Item=key(0))
    requests = [{"DeleteRequest": {"Key": key(0)}}, *map(put, range(1, MAX_BATCH_REQUESTS))]

    answer = client.batch_write_item(RequestItems={TABLE: requests[:2], REUSE_TABLE: requests[2:]})

    assert answer["UnprocessedItems"] == {}
    assert stored(client, key(0)) is None
    assert stored(client, key(1)) == put(1)["PutRequest"]["Item"]
    assert stored(client, key(2)) is None
    assert stored(client, key(2), REUSE_TABLE) == put(2)["PutRequest"]["Item"]


@pytest.mark.parametrize("count", [MAX_BATCH_KEYS + 1, 2])
def test_a_batch_of_too_many_keys_or_one_twice_is_refused(client: Any, count: int) -> None:
    numbers = range(count) if count > MAX_BATCH_KEYS else [1, 1]

    with pytest.raises(ClientError, match="ValidationException"):
        client.batch_get_item(**batch_of(numbers))


@pytest.mark.parametrize(
    "requests",
    [
        [put(number) for number in range(MAX_BATCH_REQUESTS + 1)],
        [put(1), {"DeleteRequest": {"Key": key(1)}}],
        [put(0), put(1, MAX_ITEM_BYTES)],
    ],
    ids=["too many", "one key twice", "an item that is too large"],
)
def test_a_batch_of_writes_that_aws_would_refuse_writes_nothing(
    client: Any, requests: list[dict[str, Any]]
) -> None:
    with pytest.raises(ClientError, match="ValidationException"):
        client.batch_write_item(RequestItems={TABLE: requests})

    assert [stored(client, key(number)) for number in (0, 1)] == [None, None]


def test_what_a_batch_left_can_be_sent_again(aws: FakeAws, client: Any) -> None:
    aws.faults.leave_unprocessed("batch_write_item", 2)
    left = client.batch_write_item(RequestItems={TABLE: list(map(put, range(5)))})["UnprocessedItems"]
    assert left == {TABLE: [put(3), put(4)]}
    assert [stored(client, key(number)) is None for number in range(5)] == [False] * 3 + [True] * 2
    assert not client.batch_write_item(RequestItems=left)["UnprocessedItems"]

    aws.faults.leave_unprocessed("batch_get_item", 4)
    first = client.batch_get_item(**batch_of(range(5)))
    assert first["UnprocessedKeys"] == batch_of(range(1, 5))["RequestItems"]
    second = client.batch_get_item(RequestItems=first["UnprocessedKeys"])
    assert [len(answer["Responses"][TABLE]) for answer in (first, second)] == [1, 4]


def test_a_batch_of_which_nothing_can_be_processed_is_throttled(aws: FakeAws, client: Any) -> None:
    aws.faults.leave_unprocessed("batch_write_item", 2, times=2)

    for count in (1, 2):
        with pytest.raises(ClientError, match="ThrottlingException"):
            client.batch_write_item(RequestItems={TABLE: list(map(put, range(count)))})

    assert stored(client, key(0)) is None


def test_a_batch_returns_at_most_16_mb(client: Any) -> None:
    for number in range(50):
        client.put_item(TableName=TABLE, Item=put(number, MAX_ITEM_BYTES - 20)["PutRequest"]["Item"])

    answer = client.batch_get_item(**batch_of(range(50)))

    assert len(answer["Responses"][TABLE]) == 40
    assert len(answer["UnprocessedKeys"][TABLE]["Keys"]) == 10


def test_an_item_is_at_most_400_kb(client: Any) -> None:
    with pytest.raises(ClientError, match="size"):
        client.put_item(TableName=TABLE, Item=put(1, MAX_ITEM_BYTES)["PutRequest"]["Item"])
    with pytest.raises(ClientError, match="size"):
        update(client, "SET body = :body", {":body": {"S": "x" * MAX_ITEM_BYTES}})

    assert (stored(client, key(1)), stored(client)) == (None, ITEM)


def test_a_keys_size_is_limited(client: Any) -> None:
    for name, size in (("pk", 2048), ("sk", 1024)):
        client.put_item(TableName=TABLE, Item={**KEY, name: {"S": "x" * size}})
        with pytest.raises(ClientError, match=f"ValidationException.*{size} bytes"):
            client.put_item(TableName=TABLE, Item={**KEY, name: {"S": "x" * (size + 1)}})
