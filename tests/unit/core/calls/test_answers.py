"""The answers of an unfinished chunk: each attempt stores what it knows, and the next one finds it all."""

import gzip
import json

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.calls.answers import StoredAnswers
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.s3 import PAGE_KEYS

PREFIX = "batches/e/chunk-00000-answers-"


def attempt(*, is_first: bool = False) -> StoredAnswers:
    return StoredAnswers(PREFIX, is_first=is_first)


def test_the_next_attempt_finds_what_was_stored(aws: FakeAws) -> None:
    attempt(is_first=True).save({3: '"é😀"', 1: "null", 2: '{"a":1.10}'})

    assert attempt().load() == {3: '"é😀"', 1: "null", 2: '{"a":1.10}'}
    ((key, stored),) = aws.s3.objects.items()
    assert key.startswith(PREFIX)
    assert key.endswith(".json.gz")
    assert (stored.content_type, stored.content_encoding) == ("application/json", "gzip")
    assert json.loads(gzip.decompress(stored.body)) == [[1, "null"], [2, '{"a":1.10}'], [3, '"é😀"']]


def test_a_first_attempt_asks_for_nothing(aws: FakeAws) -> None:
    attempt().save({1: "1"})
    aws.faults.calls.clear()

    assert attempt(is_first=True).load() == {}
    assert aws.faults.calls == []


def test_an_attempt_replaces_only_what_it_stored_itself(aws: FakeAws) -> None:
    dead, running, late = attempt(is_first=True), attempt(), attempt()
    dead.save({1: "1"})
    running.save({2: "2"})
    running.save({2: "2", 3: "3"})
    late.save({1: "1", 4: "4"})

    assert len(aws.s3.objects) == 3
    assert attempt().load() == {1: "1", 2: "2", 3: "3", 4: "4"}


def test_more_attempts_than_a_page_has_keys_are_all_found(aws: FakeAws) -> None:
    for number in range(3 * PAGE_KEYS + 1):
        attempt().save({number: str(number)})

    assert attempt().load() == {number: str(number) for number in range(3 * PAGE_KEYS + 1)}


def test_those_of_other_chunks_are_not_taken(aws: FakeAws) -> None:
    StoredAnswers("batches/e/chunk-00001-answers-", is_first=False).save({1: "1"})
    StoredAnswers("batches/f/chunk-00000-answers-", is_first=False).save({2: "2"})

    assert attempt().load() == {}


def test_storage_that_denies_is_an_error(aws: FakeAws) -> None:
    aws.faults.fail("list_objects_v2", "AccessDenied")

    with pytest.raises(ClientError, match="AccessDenied"):
        attempt().load()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 10**6), st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_any_texts_are_found_as_they_were_stored(aws: FakeAws, texts: dict[int, str]) -> None:
    aws.clear()
    attempt(is_first=True).save(texts)

    assert attempt().load() == texts
