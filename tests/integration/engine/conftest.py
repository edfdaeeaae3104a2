"""A bare engine for each module: nothing is deployed into it."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from stepflake.local.engine import REGION, Engine
from stepflake.stack import ACCESS_KEY, SECRET_KEY


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine.start(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def client(engine: Engine) -> Callable[[str], Any]:
    """A client of a service, as root, which does not retry: what the engine refuses is seen."""
    session: Any = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
    config = Config(retries={"total_max_attempts": 1}, inject_host_prefix=False)
    return lambda service: session.client(service, endpoint_url=engine.url, config=config)
