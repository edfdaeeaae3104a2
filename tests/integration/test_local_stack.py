"""`stepflake up`, `status` and `down` from outside, on a small project that builds and deploys in seconds."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stepflake.local.checkout import local_names, state_directory
from stepflake.local.engine import Engine
from stepflake.local.stack import find_local
from stepflake.stack import Stack
from tests.runs import wait_for

CHECKOUT = Path(__file__).parent.parent.parent
STEPFLAKE = str(Path(sys.executable).parent / "stepflake")
PATIENCE = 120

TEMPLATE = """\
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Parameters:
  Runtime: { Type: String, Default: python3.13 }
  Architecture: { Type: String, Default: arm64 }
  Greeting: { Type: String, Default: hello }
Resources:
  Api:
    Type: AWS::Serverless::Api
    Properties: { StageName: prod, Auth: { DefaultAuthorizer: AWS_IAM } }
  Bucket:
    Type: AWS::S3::Bucket
  Function:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: probe
      CodeUri: lambdas/
      Handler: probe.handler
      Runtime: !Ref Runtime
      Architectures: [!Ref Architecture]
      Timeout: 60
      MemorySize: 256
      Environment: { Variables: { GREETING: !Ref Greeting } }
      Events:
        Get: { Type: Api, Properties: { RestApiId: !Ref Api, Method: GET, Path: "/functions/{name}" } }
Outputs:
  ApiUrl: { Value: !Sub "https://${Api}.execute-api.${AWS::Region}.amazonaws.com/prod" }
  Bucket: { Value: !Ref Bucket }
"""

HANDLER = """\
import importlib, os, subprocess, time

class Odd(Exception):
    pass

def handler(event, context):
    if "import" in event:
        return importlib.import_module(event["import"]).__name__
    if "raise" in event:
        raise Odd(event["raise"])
    if "touch" in event:
        with open(event["touch"], "w"):
            time.sleep(50)
    if "caller" in event:
        import boto3
        return boto3.client("sts").get_caller_identity()["Arn"]
    return {"statusCode": 200, "body": os.environ["GREETING"]}
"""


@dataclass
class Project:
    """A checkout of a small project, and the stepflake commands in it."""

    root: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [STEPFLAKE, *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, *arguments: str, sigint: signal.Handlers = signal.SIG_DFL) -> "subprocess.Popen[str]":
        """Starts a command. `sigint`: what its parent has SIGINT do, which it inherits."""
        own = signal.signal(signal.SIGINT, sigint)
        try:
            process = subprocess.Popen(
                [STEPFLAKE, *arguments],
                cwd=self.root,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, own)
        self.running.append(process)
        return process

    def status(self, name: str) -> dict[str, Any]:
        result = self.run("status", "--name", name, "--json")
        assert result.returncode == 0, result.stderr
        status: dict[str, Any] = json.loads(result.stdout)
        return status

    def stack(self, name: str) -> Stack:
        return find_local(name, self.root)

    def engine(self, name: str) -> Engine:
        engine = Engine.find(state_directory(self.root, name))
        assert engine
        return engine

    def write(self, template: str = TEMPLATE, handler: str = HANDLER) -> None:
        (self.root / "lambdas").mkdir(exist_ok=True)
        (self.root / "statemachines").mkdir(exist_ok=True)
        (self.root / "template.yaml").write_text(template)
        (self.root / "lambdas" / "probe.py").write_text(handler)
        (self.root / "lambdas" / "requirements.txt").write_text("")
        shutil.copy(CHECKOUT / "samconfig.toml", self.root)

    def processes(self) -> list[str]:
        """The command lines of all processes that belong to a stack of this project."""
        state = str(self.root / ".stepflake")
        commands = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                about = (entry / "cmdline").read_text() + (entry / "environ").read_text()
            except (OSError, UnicodeDecodeError):
                continue
            if state in about:
                commands.append((entry / "cmdline").name + about.partition("\0")[0])
        return commands


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One project for the tests of this module: it is built once, and each test names a stack of its own."""
    project = Project(tmp_path_factory.mktemp("project").resolve())
    project.write()
    yield project
    _clean_up(project)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project of a test's own, to change."""
    project = Project(tmp_path.resolve())
    project.write()
    yield project
    _clean_up(project)


def _clean_up(project: Project) -> None:
    for process in project.running:
        process.kill()
        process.communicate()
    project.run("down", "--all")


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> str:
    """Reads the process's stderr up to the line that has `text`; returns all that was read."""
    assert process.stderr
    read = ""
    for line in process.stderr:
        read += line
        if text in line:
            return read
    raise AssertionError(f"ended without {text!r}:\n{read}")


def invoke(stack: Stack, event: dict[str, Any]) -> tuple[str | None, Any]:
    answer = stack.client("lambda").invoke(FunctionName="probe", Payload=json.dumps(event))
    return answer.get("FunctionError"), json.loads(answer["Payload"].read())


def get(stack: Stack) -> tuple[int, str]:
    import urllib3
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("GET", f"{stack.api_url}/functions/echo")
    SigV4Auth(stack.credentials, "execute-api", stack.region).add_auth(request)
    with urllib3.PoolManager() as pool:
        answer = pool.request(
            "GET", str(request.url), headers=dict(request.headers), timeout=30, retries=False
        )
        return answer.status, answer.data.decode()


def test_up_status_redeploy_down(project: Project) -> None:
    up = project.run("up", "--detach", "--name", "one")
    assert up.returncode == 0, up.stderr
    status = project.status("one")
    assert status["stack_name"] == "stepflake"
    assert status["region"] == "us-east-1"
    assert status["outputs"]["Bucket"]
    assert status["api_url"].startswith(status["aws_endpoint_url"] + "/_aws/execute-api/")
    exports = project.run("status", "--name", "one").stdout
    assert f"export AWS_ENDPOINT_URL={status['aws_endpoint_url']}" in exports
    assert get(project.stack("one")) == (200, "hello")

    again = project.run("up", "--name", "one")
    assert again.returncode == 0, again.stderr
    assert "up already" in again.stderr
    assert "Already deployed" in again.stderr

    project.write(handler=HANDLER.replace('os.environ["GREETING"]', 'os.environ["GREETING"] + ", new"'))
    changed = project.run("up", "--name", "one", "--parameter", "Greeting=salut")
    assert changed.returncode == 0, changed.stderr
    assert "Already deployed" not in changed.stderr
    assert get(project.stack("one")) == (200, "salut, new")

    down = project.run("down", "--name", "one")
    assert (down.returncode, down.stderr) == (0, "one: stopped\n")
    assert project.processes() == []
    assert local_names(project.root) == []
    after = project.run("status", "--name", "one", "--json")
    assert after.returncode == 1
    assert "stepflake up --detach --name one" in after.stderr
    twice = project.run("down", "--name", "one")
    assert (twice.returncode, twice.stderr) == (0, "one: not running\n")


def test_functions_run_as_on_lambda(checkout: Project) -> None:
    assert checkout.run("up", "--detach", "--name", "runtime").returncode == 0
    stack = checkout.stack("runtime")
    assert invoke(stack, {"import": "boto3"}) == (None, "boto3")
    failure, answer = invoke(stack, {"import": "click"})  # it is in the developer's environment only
    assert (failure, answer["errorType"]) == ("Unhandled", "ModuleNotFoundError")
    failure, answer = invoke(stack, {"raise": "no such row"})
    assert (failure, answer["errorType"], answer["errorMessage"]) == ("Unhandled", "Odd", "no such row")
    _, caller = invoke(stack, {"caller": True})
    assert ":assumed-role/stepflake-FunctionRole" in caller
    checkout.run("down", "--name", "runtime")


def test_two_stacks_at_once_do_not_collide(checkout: Project) -> None:
    with ThreadPoolExecutor() as pool:
        ups = list(pool.map(lambda name: checkout.run("up", "-d", "--name", name), ["left", "right"]))
    assert [up.returncode for up in ups] == [0, 0], [up.stderr for up in ups]
    left, right = checkout.stack("left"), checkout.stack("right")
    assert left.aws_endpoint_url != right.aws_endpoint_url
    left.client("s3").put_object(Bucket=left.outputs["Bucket"], Key="mine", Body=b"")
    assert "Contents" not in right.client("s3").list_objects_v2(Bucket=right.outputs["Bucket"])
    assert checkout.run("down", "--name", "left").returncode == 0
    assert get(right) == (200, "hello")
    assert checkout.run("down", "--name", "right").returncode == 0


def test_second_up_of_a_name_at_the_same_time_is_refused(checkout: Project) -> None:
    first = checkout.start("up", "--detach", "--name", "same")
    wait_for_line(first, "Building")
    second = checkout.run("up", "--detach", "--name", "same")
    assert second.returncode == 1
    assert "Another `stepflake up` of the stack 'same' is running" in second.stderr
    _, messages = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, messages
    checkout.run("down", "--name", "same")


def test_port_that_is_taken(checkout: Project) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        up = checkout.run("up", "--detach", "--name", "port", "--port", str(port))
    assert up.returncode == 1
    assert f"Port {port} can't be used" in up.stderr
    assert "--port" in up.stderr
    assert checkout.run("status", "--name", "port").returncode == 1


# CloudFormation notices only when it creates the resource.
IMPOSSIBLE = TEMPLATE.replace(
    "Outputs:",
    """\
  Door:
    Type: AWS::Lambda::Url
    Properties: { AuthType: NONE, TargetFunctionArn: nobody }
Outputs:""",
)


def test_resource_that_can_not_be_created(project: Project) -> None:
    project.write(IMPOSSIBLE)
    up = project.run("up", "--detach")
    assert up.returncode == 1
    assert re.search(r"^  Door: .*nobody", up.stderr, re.MULTILINE)
    assert "sam-deploy.log" in up.stderr
    assert project.processes() == []
    assert project.run("status").returncode == 1


def test_template_with_an_error(project: Project) -> None:
    project.write(
        TEMPLATE.replace("Handler: probe.handler", "Handler: probe.handler\n      Role: !Ref Nobody")
    )
    up = project.run("up", "--detach")
    assert up.returncode == 1
    assert re.search(r"line \d+, Resources.Function.Properties.Role.*Nobody", up.stderr)
    assert project.processes() == []


def test_failed_change_leaves_a_running_stack_running(project: Project) -> None:
    assert project.run("up", "--detach").returncode == 0
    project.write(IMPOSSIBLE)
    up = project.run("up", "--detach")
    assert up.returncode == 1
    assert re.search(r"^  Door: .*nobody", up.stderr, re.MULTILINE)
    assert get(project.stack("local")) == (200, "hello")


@pytest.mark.parametrize(
    ("number", "sigint"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        # A shell ignores SIGINT for its background jobs, and their children inherit that.
        (signal.SIGINT, signal.SIG_IGN),
        (signal.SIGTERM, signal.SIG_DFL),
    ],
    ids=["sigint", "sigint-ignored", "sigterm"],
)
def test_attached_stack_ends_with_its_terminal(
    checkout: Project, number: signal.Signals, sigint: signal.Handlers
) -> None:
    name = f"{number.name}-{sigint.name}".lower().replace("_", "-")
    up = checkout.start("up", "--name", name, sigint=sigint)
    wait_for_line(up, "The engine is healthy")
    invoke(checkout.stack(name), {})
    up.send_signal(number)
    _, messages = up.communicate(timeout=PATIENCE)
    assert (up.returncode, messages) == (0, "Stopped.\n")
    assert [process for process in checkout.processes() if name in process] == []
    assert checkout.run("status", "--name", name).returncode == 1


def test_engine_that_dies_while_attached(checkout: Project, tmp_path: Path) -> None:
    up = checkout.start("up", "--name", "victim")
    wait_for_line(up, "The engine is healthy")
    stack, engine, started = checkout.stack("victim"), checkout.engine("victim"), tmp_path / "started"
    stack.client("lambda").invoke(
        FunctionName="probe", InvocationType="Event", Payload=json.dumps({"touch": str(started)})
    )
    wait_for(started.exists, "the Lambda")
    os.kill(engine.pid, signal.SIGKILL)
    _, messages = up.communicate(timeout=PATIENCE)
    assert up.returncode == 1
    assert "The engine ended." in messages
    assert f"{engine.log}" in messages
    assert [process for process in checkout.processes() if "victim" in process] == []
    assert checkout.run("status", "--name", "victim").returncode == 1


def test_engine_that_dies_during_a_deployment(checkout: Project) -> None:
    up = checkout.start("up", "--detach", "--name", "early")
    wait_for_line(up, "Deploying")
    os.kill(checkout.engine("early").pid, signal.SIGKILL)
    _, messages = up.communicate(timeout=PATIENCE)
    assert up.returncode == 1
    assert "The engine ended during sam deploy." in messages
    assert "early/engine.log" in messages
    again = checkout.run("up", "--detach", "--name", "early")
    assert again.returncode == 0, again.stderr
    checkout.run("down", "--name", "early")


def test_down_ends_an_attached_stack(checkout: Project) -> None:
    up = checkout.start("up", "--name", "attached")
    wait_for_line(up, "The engine is healthy")
    assert checkout.run("down", "--all").stderr.count("attached: stopped") == 1
    _, messages = up.communicate(timeout=PATIENCE)
    assert (up.returncode, messages) == (0, "Stopped by `stepflake down`.\n")
