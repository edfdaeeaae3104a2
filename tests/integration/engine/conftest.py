"""An engine for each module of these tests, with nothing deployed, and clients that do not retry."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from stepflake.local.engine import REGION, Engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    started = Engine.start(tmp_path_factory.mktemp("engine"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Callable[..., Any]]:
    """`client("sqs")`: as the account's root, or with the credentials that are given."""
    made = []

    def make(service: str, **credentials: str) -> Any:
        keys = credentials or {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        made.append(
            boto3.client(  # type: ignore[call-overload]
                service,
                endpoint_url=engine.url,
                region_name=REGION,
                config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
                **keys,
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()
