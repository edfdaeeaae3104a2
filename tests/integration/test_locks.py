"""Locks on a real table: which run gets one, when a lease expires, and what a late owner cannot do."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from core import clients
from core.settings import settings
from ingest.landed_objects import Content
from ingest.locks import LEASE_SECONDS, LockLost, acquire, complete, release, renew
from stepflake.stack import ACCESS_KEY, SECRET_KEY, Stack

NOW = int(time.time())

RESULT = {"outcome": "processed", "rows": 2, "key": "日本"}


def at(seconds: int) -> Callable[[], float]:
    return lambda: NOW + seconds + 0.5


@pytest.fixture(autouse=True)
def lambda_environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the stack's Lambdas have in their environment: its table, and where AWS is."""
    for name, value in {
        "AWS_ENDPOINT_URL": str(stack.aws_endpoint_url),
        "AWS_DEFAULT_REGION": str(stack.region),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "BUCKET": stack.outputs["Bucket"],
        "TABLE": stack.outputs["Table"],
        "STATE_MACHINE_PREFIX": stack.outputs["BatchStateMachineArn"].removesuffix("batch"),
        "POST_WAIT_SECONDS": "1",
        "GET_WAIT_SECONDS": "2",
        "ROWS_IN_INPUTS": "true",
    }.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    clients._clients.clear()
    yield
    settings.cache_clear()
    for client in clients._clients.values():
        client.close()
    clients._clients.clear()


@pytest.fixture
def content() -> Content:
    return Content("bucket", f"ingest/f/{uuid.uuid4()} 日本+.csv", "e1")


def items(content: Content) -> list[Any]:
    """All items of an object in the table."""
    answer = clients.dynamodb().query(
        TableName=settings().table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": f"object#{content.bucket}/{content.key}"}},
        ConsistentRead=True,
    )
    return answer["Items"]


def test_a_lock_has_one_owner_at_a_time(content: Content) -> None:
    first = acquire(content, "a", "a", clock=at(0))
    second = acquire(content, "b", "b", clock=at(1))

    assert (first.owner, first.lease_until, first.result) == ("a", NOW + LEASE_SECONDS, None)
    assert second == first


def test_one_of_many_concurrent_owners_gets_the_lock(content: Content) -> None:
    owners = [f"owner-{number}" for number in range(16)]

    with ThreadPoolExecutor(len(owners)) as pool:
        locks = list(pool.map(lambda owner: acquire(content, owner, owner, clock=at(0)), owners))

    assert len({lock.owner for lock in locks}) == 1


def test_each_content_has_a_lock_of_its_own(content: Content) -> None:
    others = [
        content,
        Content(content.bucket, content.key, "e2"),
        Content(content.bucket, content.key, "e1", "v1"),
        Content(content.bucket, content.key, "e1", "v2"),
        Content(content.bucket, content.key + "x", "e1"),
        Content("other", content.key, "e1"),
    ]

    locks = [acquire(other, str(number), "r", clock=at(0)) for number, other in enumerate(others)]

    assert [lock.owner for lock in locks] == ["0", "1", "2", "3", "4", "5"]


def test_a_retry_of_the_owner_gets_the_lock_again(content: Content) -> None:
    acquire(content, "a", "a", clock=at(0))

    again = acquire(content, "a", "a", clock=at(10))

    assert (again.owner, again.lease_until) == ("a", NOW + 10 + LEASE_SECONDS)


def test_a_lock_is_taken_over_when_its_lease_has_expired_and_not_before(content: Content) -> None:
    acquire(content, "a", "a", clock=at(0))

    before = acquire(content, "b", "b", clock=at(LEASE_SECONDS))
    after = acquire(content, "b", "b", clock=at(LEASE_SECONDS + 1))

    assert (before.owner, after.owner) == ("a", "b")


def test_renewing_extends_the_lease(content: Content) -> None:
    acquire(content, "a", "a", clock=at(0))
    renew(content, "a", clock=at(500))

    lock = acquire(content, "b", "b", clock=at(LEASE_SECONDS + 1))

    assert (lock.owner, lock.lease_until) == ("a", NOW + 500 + LEASE_SECONDS)


def test_a_resumption_of_the_run_takes_the_lock_at_once(content: Content) -> None:
    acquire(content, "a", "a", clock=at(0))

    resumed = acquire(content, "a-r1", "a", clock=at(1))

    assert (resumed.owner, resumed.run_id) == ("a-r1", "a")
    with pytest.raises(LockLost, match="run a-r1 holds it until"):
        renew(content, "a")


def test_a_completed_lock_is_never_taken_again(content: Content) -> None:
    acquire(content, "a", "a", clock=at(0))
    complete(content, "a", RESULT)
    complete(content, "a", RESULT)

    for owner, run_id in [("b", "b"), ("a", "a"), ("c", "a")]:
        lock = acquire(content, owner, run_id, clock=at(10 * LEASE_SECONDS))
        assert (lock.owner, lock.result) == ("a", RESULT)


def test_a_released_lock_may_be_taken_by_any_owner(content: Content) -> None:
    acquire(content, "a", "a", clock=at(0))

    assert release(content, "a")
    assert not release(content, "a")
    assert acquire(content, "b", "b", clock=at(1)).owner == "b"


def test_a_late_owner_changes_nothing(content: Content) -> None:
    acquire(content, "late", "late", clock=at(0))
    acquire(content, "b", "b", clock=at(LEASE_SECONDS + 1))
    [before] = items(content)

    with pytest.raises(
        LockLost, match=r"the lock on s3://bucket/ingest/.* was lost: run b holds it until 20"
    ):
        renew(content, "late")
    with pytest.raises(LockLost, match="run b holds it"):
        complete(content, "late", RESULT)
    assert not release(content, "late")

    assert items(content) == [before]


def test_an_owner_later_than_the_completion_changes_nothing(content: Content) -> None:
    acquire(content, "late", "late", clock=at(0))
    acquire(content, "b", "b", clock=at(LEASE_SECONDS + 1))
    complete(content, "b", RESULT)

    with pytest.raises(LockLost, match="run b completed it"):
        complete(content, "late", {"outcome": "other"})
    with pytest.raises(LockLost, match="run b completed it"):
        renew(content, "late")
    assert not release(content, "b")
    assert acquire(content, "c", "c", clock=at(0)).result == RESULT


def test_a_lock_that_is_not_held_cannot_be_renewed_or_completed(content: Content) -> None:
    with pytest.raises(LockLost, match=r"no run holds the lock on .* any more; run it again"):
        renew(content, "a")
    with pytest.raises(LockLost, match=r"no run holds the lock on .* any more; run it again"):
        complete(content, "a", RESULT)


def test_other_errors_of_the_table_are_raised_unchanged(
    content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABLE", "no-such-table")
    settings.cache_clear()

    for call in (
        lambda: acquire(content, "a", "a"),
        lambda: renew(content, "a"),
        lambda: complete(content, "a", RESULT),
        lambda: release(content, "a"),
    ):
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            call()
