"""docs/adding-a-workflow.md: what it says is complete, and each part that is left out is reported."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from stepflake.cli import main
from tests.documented_workflow import NAME, add_workflow

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("lambdas", "statemachines"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "template.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_adds_a_workflow_that_lacks_nothing(project: Path) -> None:
    add_workflow(project)
    result = CliRunner().invoke(main, ["lint"])
    assert (result.exit_code, result.output) == (0, "6 machines and 49 states checked: nothing to fix\n")


@pytest.mark.parametrize(
    ("left_out", "findings"),
    [
        ("lambdas/remind/input.json", ["there is no lambdas/remind/input.json"]),
        ("lambdas/remind/send.py", ["SendFunction: there is no lambdas/remind/send.py"]),
        ("statemachines/remind.asl.json", ["there is no statemachines/remind.asl.json"]),
        (
            'before the section "Logs and traces"',
            ["template.yaml doesn't deploy it", "no alarm watches its ExecutionsFailed"],
        ),
        (
            "at the end of the list &Workflows",
            [
                "BatchStateMachineRole: may not StartExecution of remind",
                "RecordRunFunctionRole: may not DescribeExecution of remind",
                "RemoteFunctionPolicy: may not RedriveExecution of remind",
            ],
        ),
        ("at the beginning of Outputs", ["Outputs: none gives the ARN of RemindStateMachine"]),
    ],
)
def test_what_is_left_out_is_named(project: Path, left_out: str, findings: list[str]) -> None:
    add_workflow(project, without=left_out)
    result = CliRunner().invoke(main, ["lint"])
    assert result.exit_code == 1
    for finding in findings:
        assert [line for line in result.output.splitlines() if finding in line and NAME in line.lower()]
