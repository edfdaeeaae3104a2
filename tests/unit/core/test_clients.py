"""Clients of AWS: one for each service and number of attempts, made once by concurrent threads."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core import clients
from tests.unit.fake_aws import FakeAws

THREADS = 16


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Python switches between threads as often as it can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_threads_that_need_the_same_client_at_a_cold_start_make_one(aws: FakeAws) -> None:
    together = threading.Barrier(THREADS, timeout=60)

    def first(_: int) -> Any:
        together.wait()
        return clients.s3()

    for _ in range(20):
        clients._clients.clear()
        aws.clients_made.clear()
        with ThreadPoolExecutor(THREADS) as pool:
            made = set(map(id, pool.map(first, range(THREADS))))
        assert aws.clients_made == ["s3"]
        assert len(made) == 1


def test_clients_with_different_numbers_of_attempts_are_different(aws: FakeAws) -> None:
    assert clients.stepfunctions() is clients.stepfunctions()
    assert clients.stepfunctions() is not clients.task_callbacks()
    assert aws.clients_made == ["stepfunctions", "stepfunctions"]
