"""Describing a stack, and building the checkout, without an engine."""

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from stepflake import stack
from stepflake.local import build
from stepflake.local.checkout import local_names, project_root, state_directory
from stepflake.local.stack import find_local
from stepflake.stack import Stack, StackError

OUTPUTS = {"ApiUrl": "https://a1b2.execute-api.eu-west-1.amazonaws.com/prod", "Bucket": "rows"}


def described(outputs: dict[str, str]) -> dict[str, Any]:
    return {
        "Stacks": [
            {
                "StackName": "mine",
                "StackStatus": "CREATE_COMPLETE",
                "CreationTime": "2026-01-01T00:00:00Z",
                "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()],
                "Parameters": [{"ParameterKey": "Diagnostics", "ParameterValue": "false"}],
            }
        ]
    }


@pytest.fixture
def cloudformation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(
        stack, "_session", lambda endpoint, region, profile: boto3.Session(region_name=region)
    )
    client = boto3.client("cloudformation", region_name="eu-west-1")
    monkeypatch.setattr(stack, "client_of", lambda *_arguments: client)
    with Stubber(client) as stubber:
        yield stubber


def test_stack_on_aws(cloudformation: Stubber) -> None:
    cloudformation.add_response("describe_stacks", described(OUTPUTS), {"StackName": "mine"})
    stack = Stack.describe("mine", "eu-west-1")
    assert stack == Stack(OUTPUTS["ApiUrl"], None, "eu-west-1", "mine", OUTPUTS, {"Diagnostics": "false"})
    assert stack.credentials.access_key == "AKIA"


def test_api_of_a_local_stack_is_the_engine_s(cloudformation: Stubber) -> None:
    cloudformation.add_response("describe_stacks", described(OUTPUTS))
    stack = Stack.describe("mine", "eu-west-1", endpoint="http://127.0.0.1:9")
    assert stack.api_url == "http://127.0.0.1:9/_aws/execute-api/a1b2/prod"


def test_stack_that_is_unknown(cloudformation: Stubber) -> None:
    cloudformation.add_client_error("describe_stacks", "ValidationError", "Stack with id mine does not exist")
    with pytest.raises(StackError, match=r"'mine' can't be described: .* does not exist"):
        Stack.describe("mine", "eu-west-1")


def test_stack_without_the_outputs_of_stepflake(cloudformation: Stubber) -> None:
    cloudformation.add_response("describe_stacks", described({"Url": "https://example.com"}))
    with pytest.raises(StackError, match=r"'mine' \(CREATE_COMPLETE\) has no output ApiUrl"):
        Stack.describe("mine", "eu-west-1")


def test_stack_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(
        StackError, match=r"'blue' is not running; start it with: stepflake up --detach --name blue"
    ):
        find_local("blue", tmp_path)


@pytest.mark.parametrize("name", ["", ".cache", "../other", "Local", "a/b", "-x", "x" * 41])
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StackError, match="can't name a local stack"):
        state_directory(tmp_path, name)


def test_names_of_local_stacks(tmp_path: Path) -> None:
    for name in ["green", "blue"]:
        state_directory(tmp_path, name).mkdir(parents=True)
    (tmp_path / ".stepflake" / ".cache").mkdir()
    assert local_names(tmp_path) == ["blue", "green"]


def test_root_is_the_project_around_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "lambdas" / "functions"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert (
        project_root() / "pyproject.toml"
    ).exists()  # no project here: the one that this was installed from
    (tmp_path / "template.yaml").touch()
    (tmp_path / "samconfig.toml").touch()
    assert project_root() == tmp_path


def test_runtime_has_only_what_lambda_s_has(tmp_path: Path) -> None:
    runtime = build._link_runtime(tmp_path)
    names = {path.name for path in runtime.iterdir()}
    assert {"boto3", "botocore", "awslambdaric"} <= names
    assert not names & {"click", "rich", "pytest", "aws_lambda_powertools"}
    assert all(path.exists() for path in runtime.iterdir())
    assert build._link_runtime(tmp_path) == runtime


def test_bundles_are_zipped_once_with_their_bootstrap(tmp_path: Path) -> None:
    for name, code in {"Initiate": "one", "Poll": "one", "Other": "two"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "handler.py").write_text(code)
    functions = {
        name: {"Type": "F", "Properties": {"CodeUri": name}} for name in ["Initiate", "Poll", "Other"]
    }
    template = {"Resources": functions | {"Table": {"Type": "T"}}}
    (tmp_path / "template.yaml").write_text(json.dumps(template))
    build._pack(tmp_path, "#!/bin/sh\n")
    packed = json.loads((tmp_path / "template.json").read_text())["Resources"]
    archives = [packed[name]["Properties"]["CodeUri"] for name in functions]
    assert archives[0] == archives[1] != archives[2]
    assert len(list(tmp_path.glob("*.zip"))) == 2
    with zipfile.ZipFile(tmp_path / archives[0]) as bundle:
        assert bundle.read("handler.py") == b"one"
        assert bundle.getinfo("bootstrap").external_attr >> 16 == 0o755


def test_digest_changes_with_the_sources(tmp_path: Path) -> None:
    (tmp_path / "lambdas" / "__pycache__").mkdir(parents=True)
    (tmp_path / "template.yaml").write_text("{}")
    handler = tmp_path / "lambdas" / "handler.py"
    handler.write_text("one")
    first = build._source_digest(tmp_path, "")
    (tmp_path / "lambdas" / "__pycache__" / "handler.pyc").write_text("x")
    assert build._source_digest(tmp_path, "") == first
    handler.write_text("two")
    assert build._source_digest(tmp_path, "") != first


def test_base_python_has_none_of_this_environment_s_packages() -> None:
    assert build._base_python() != Path(sys.executable)
    assert build._base_python().is_file()
