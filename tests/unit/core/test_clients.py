"""Clients of AWS: one for each service and number of attempts, made once by concurrent threads."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from core import clients
from tests.unit.fake_aws import FakeAws

THREADS = 16
TEMPLATE = yaml_parse((Path(__file__).parents[3] / "template.yaml").read_text(encoding="utf-8"))


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


@pytest.mark.parametrize(
    "make", [clients.s3, clients.dynamodb, clients.stepfunctions, clients.sns, clients.sqs]
)
def test_a_call_that_is_never_answered_ends_before_the_lambda_does(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(boto3, "client", lambda _, config: configs.append(config))
    monkeypatch.setattr(clients, "_clients", {})
    make()
    (config,) = configs
    attempts = config.retries["total_max_attempts"]
    # Standard mode waits up to 1 s before the first retry and up to twice as long before each further one.
    # https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
    between = 2 ** (attempts - 1) - 1
    assert config.retries["mode"] == "standard"
    seconds = attempts * (config.connect_timeout + config.read_timeout) + between
    assert seconds < TEMPLATE["Globals"]["Function"]["Timeout"]
