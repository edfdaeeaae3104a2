"""The command line itself: help, usage errors, and what is imported when."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from stepflake.cli import COMMANDS, main


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from stepflake.cli import main; main(standalone_mode=False)"
    )
    code += "; print({'boto3', 'botocore', 'duckdb', 'sqlglot', 'samcli'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["up", "--port", "0"],
        ["up", "--parameter", "Runtime"],
        ["status", "--xml"],
        ["down", "extra"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_invalid_name_exits_with_1(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--name", "No Name"])
    assert result.exit_code == 1
    assert "'No Name' can't name a local stack" in result.output
