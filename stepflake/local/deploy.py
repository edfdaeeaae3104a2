"""A build deployed into an engine with `sam deploy`."""

import json
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from stepflake.local.build import ARCHITECTURES, Build
from stepflake.local.checkout import cache_directory, local_config
from stepflake.local.engine import REGION, Engine
from stepflake.local.sam import EngineDiedError, run_sam
from stepflake.stack import Stack, StackError, client_of

# Shows a step's title while its block runs: `with step("Deploying"):`.
Step = Callable[[str], AbstractContextManager[None]]


def deploy(root: Path, build: Build, engine: Engine, parameters: Mapping[str, str], step: Step) -> Stack:
    """Deploys the build, unless the engine has it with the same parameters. Raises StackError."""
    config = local_config(root)
    name = config["stack_name"]
    values = dict(item.split("=", 1) for item in config.get("parameter_overrides", []))
    values["Architecture"] = ARCHITECTURES[platform.machine()]
    values |= parameters
    record = engine.state / "deployed.json"
    wanted = {"engine": engine.pid, "build": build.digest, "parameters": values}
    if record.exists() and json.loads(record.read_text()) == wanted:
        with step("Already deployed: neither code nor parameters have changed"):
            return Stack.describe(name, REGION, endpoint=engine.url)
    record.unlink(missing_ok=True)
    with step("Deploying"):
        _sam_deploy(root, build, engine, name, values)
        stack = Stack.describe(name, REGION, endpoint=engine.url)
    record.write_text(json.dumps(wanted))
    return stack


def _sam_deploy(root: Path, build: Build, engine: Engine, name: str, values: Mapping[str, str]) -> None:
    """Runs `sam deploy`. Raises StackError with CloudFormation's reasons, or EngineDiedError."""
    arguments = [
        "deploy",
        f"--template-file={build.template}",
        f"--config-file={(root / 'samconfig.toml').resolve()}",
        "--config-env=local",
        "--parameter-overrides",
        *(f"{key}={value}" for key, value in values.items()),
    ]
    try:
        run_sam(cache_directory(root), arguments, engine)
    except EngineDiedError:
        raise
    except StackError as error:
        failures = _failures(name, engine)
        if not failures:
            raise
        log = engine.state / "sam-deploy.log"
        raise StackError("\n".join(["The deployment failed:", *failures, f"All of it: {log}"])) from error


def _failures(name: str, engine: Engine) -> list[str]:
    """CloudFormation's reasons why the last deployment failed: one line for each resource that did."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = client_of("cloudformation", engine.url, REGION, None)
    try:
        events = client.describe_stack_events(StackName=name)["StackEvents"]
    except (BotoCoreError, ClientError):
        return []  # there is no stack: sam's own output has the reason
    failures: list[str] = []
    for event in events:  # the newest first
        status, resource = event["ResourceStatus"], event["LogicalResourceId"]
        if resource == name and status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
            break
        if status.endswith("_FAILED"):
            failures.insert(0, f"  {resource}: {event.get('ResourceStatusReason', '')}")
    return failures
