"""An engine for each module of these tests, with nothing deployed, and clients that do not retry."""

import io
import itertools
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from stepflake.local.engine import REGION, Engine, Settings
from stepflake.local.faults import Faults
from stepflake.local.limits import LIMITS, Value
from stepflake.stack import ACCESS_KEY, SECRET_KEY
from tests.integration.engine.machines import Activity, Machines

# As build.py makes it, but with all packages of this environment.
BOOTSTRAP = f"""\
#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT"
exec "{sys.executable}" -m awslambdaric "$_HANDLER" "$STEPFLAKE_STATE"
"""

Limits = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    started = Engine.start(tmp_path_factory.mktemp("engine"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Callable[..., Any]]:
    """`client("sqs")`: as the account's root, or with the credentials that are given."""
    made = []
    config = Config(retries={"total_max_attempts": 1}, inject_host_prefix=False, parameter_validation=False)

    def make(service: str, **credentials: str) -> Any:
        keys = credentials or {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        made.append(
            boto3.client(  # type: ignore[call-overload]
                service, endpoint_url=engine.url, region_name=REGION, config=config, **keys
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def role_client(client: Callable[..., Any], engine: Engine) -> Callable[[str], Any]:
    """A client with the credentials of a role that may do everything."""
    iam = client("iam")
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    role = iam.create_role(RoleName="all", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    iam.put_role_policy(RoleName="all", PolicyName="all", PolicyDocument=json.dumps(allow))
    given = client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="test")["Credentials"]
    session: Any = boto3.Session(
        given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], region_name=REGION
    )
    # Shorter than the answers that are late.
    config = Config(retries={"total_max_attempts": 1}, read_timeout=1)
    return lambda service: session.client(service, endpoint_url=engine.url, config=config)


@pytest.fixture(autouse=True)
def as_on_aws(engine: Engine) -> Iterator[None]:
    """Each test begins with the limits' defaults and without faults."""
    yield
    defaults = {name: Value(limit.size, limit.refill) for name, limit in LIMITS.items()}
    engine.configure(Settings(True, defaults, Faults()))


@pytest.fixture
def settings(engine: Engine) -> Callable[..., Limits]:
    """`settings(limits=...)` changes the engine's Settings for this test; returns its limits by name."""

    def change(**change: Any) -> Limits:
        engine.configure(Settings(**change))
        return {limit["name"]: limit for limit in engine.settings()["limits"]}

    return change


@pytest.fixture(scope="module")
def machines(engine: Engine, client: Callable[..., Any]) -> Machines:
    return Machines(engine, client)


@pytest.fixture
def work(machines: Machines) -> Activity:
    return machines.activity()


@pytest.fixture(scope="module")
def deploy(client: Callable[..., Any]) -> Callable[..., str]:
    """`deploy("app.echo", Timeout=3)`: a Lambda with a handler of functions/; returns its name."""
    functions, numbers = client("lambda"), itertools.count()
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = client("iam").create_role(
        RoleName="lambda", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": trust})
    )["Role"]["Arn"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in (Path(__file__).parent / "functions").glob("*.py"):
            bundle.write(path, path.name)
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        bundle.writestr(entry, BOOTSTRAP)

    def create(handler: str, **configuration: Any) -> str:
        name: str = configuration.pop("FunctionName", f"{handler.replace('.', '-')}-{next(numbers)}")
        settings = {"Timeout": 20, "MemorySize": 512} | configuration
        functions.create_function(
            FunctionName=name,
            Runtime="provided.al2023",
            Role=role,
            Handler=handler,
            Code={"ZipFile": archive.getvalue()},
            **settings,
        )
        functions.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})
        return name

    return create
