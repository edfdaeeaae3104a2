"""One engine for all tests of state machines, without a stack: their Tasks are answered by the tests."""

from collections.abc import Callable, Iterator

import boto3
import pytest
import urllib3
from botocore.config import Config
from mypy_boto3_stepfunctions import SFNClient

from stepflake.local.engine import REGION, Engine
from tests.states.state_machine import StateMachine


@pytest.fixture(scope="session")
def step_functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SFNClient]:
    """Step Functions on an engine where waits take no time; nothing is deployed, so no IAM is enforced."""
    engine = Engine.start(
        tmp_path_factory.mktemp("engine"), environment={"AUTH": "false", "SFN_WAIT_SCALE": "0"}
    )
    # Without AWS's limits: runs are described from their start on, and as often as it takes.
    settings = urllib3.request("PUT", f"{engine.url}/_stepflake/settings", json={"enabled": False})
    assert settings.status == 200
    client = boto3.client(
        "stepfunctions",
        endpoint_url=engine.url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        # TestState has an endpoint of its own on AWS (sync-states...), which resolves to nothing here.
        config=Config(inject_host_prefix=False, retries={"total_max_attempts": 1}),
    )
    try:
        yield client
    finally:
        client.close()
        engine.stop()


@pytest.fixture
def machine(step_functions: SFNClient) -> Callable[..., StateMachine]:
    """`machine("batch", MapConcurrency="4")`: statemachines/batch.asl.json with its placeholders filled."""
    return lambda name, **substitutions: StateMachine.load(step_functions, name, substitutions)
