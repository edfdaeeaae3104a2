"""What functions and services say of their calls: the same for a shared limit, and variables that are set."""

import textwrap
from pathlib import Path

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from stepflake.callers import Caller, read_callers
from stepflake.lint import calls
from stepflake.lint.calls import lint_limits, lint_variables
from stepflake.lint.template.document import FUNCTION, Template

ROOT = Path(__file__).parents[3]
LAMBDAS = Path("lambdas")
SERVICE = """
    @service(rate_limit="10/second", calls="api")
    def shared(document): ...
"""


def declared(folder: Path, arguments: str, service: str = "", name: str = "first") -> list[Caller]:
    """A function with these arguments of its decorator, and perhaps a service."""
    for kind in ("functions", "services"):
        (folder / kind).mkdir(exist_ok=True)
    source = f"@remote_function({arguments})\ndef {name}(text: str) -> str: ...\n"
    (folder / "functions" / f"{name}.py").write_text(source)
    if service:
        (folder / "services" / "shared.py").write_text(textwrap.dedent(service))
    return read_callers(folder)


def test_this_projects_declarations_are_in_order() -> None:
    callers, template = read_callers(ROOT / "lambdas"), Template.read(ROOT / "template.yaml")
    assert any(caller.variables() for caller in callers)
    assert list(lint_limits(callers, LAMBDAS)) == []
    assert list(lint_variables(callers, LAMBDAS, template)) == []


def test_the_lambdas_that_read_options_are_in_the_template() -> None:
    handlers = {each.get("Handler") for _, each in Template.read(ROOT / "template.yaml").of_type(FUNCTION)}
    assert {handler for readers in calls._READERS.values() for handler in readers} <= handlers


@pytest.mark.parametrize(
    "arguments",
    [
        'rate_limit="10/second", calls="api"',
        'rate_limit="5/second", calls="other"',
        'rate_limit="5/second"',
        "",
    ],
)
def test_limits_that_agree_or_are_not_the_same(tmp_path: Path, arguments: str) -> None:
    assert list(lint_limits(declared(tmp_path, arguments, SERVICE), LAMBDAS)) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('rate_limit="5/second", calls="api"', 'rate_limit="5/second"'),
        ('rate_limit="${RATE}", calls="api"', 'rate_limit="${RATE}"'),
        (
            'rate_limit="10/second", max_concurrency=4, calls="api"',
            'rate_limit="10/second" and max_concurrency=4',
        ),
    ],
)
def test_a_limit_that_is_declared_in_two_ways_names_both_files(
    tmp_path: Path, arguments: str, said: str
) -> None:
    (finding,) = lint_limits(declared(tmp_path, arguments, SERVICE), LAMBDAS)
    assert str(finding) == (
        "lambdas/services/shared.py: it declares the limit 'api' with rate_limit=\"10/second\", and "
        f"lambdas/functions/first.py with {said}; write the same in both, or name another limit with calls "
        "in one of them"
    )


def test_a_functions_own_name_is_a_limits_name_too(tmp_path: Path) -> None:
    callers = declared(tmp_path, 'rate_limit="5/second"', SERVICE, name="api")
    assert [finding.file for finding in lint_limits(callers, LAMBDAS)] == ["lambdas/services/shared.py"]


TEMPLATE = """
Globals: { Function: { Environment: { Variables: { SHARED: x } } } }
Resources:
  Process:
    Type: AWS::Serverless::Function
    Properties: { Handler: batch.process.handler, Environment: { Variables: { OWN: x } } }
  Initiate:
    Type: AWS::Serverless::Function
    Properties: { Handler: batch.initiate.handler, Environment: { Variables: { OWN: x } } }
  Ingest:
    Type: AWS::Serverless::Function
    Properties: { Handler: ingest.work.handler }
  Service:
    Type: AWS::Serverless::Function
    Properties: { Handler: pipeline.service.handler }
"""


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        ('rate_limit="${SHARED}", reuse="${SHARED}"', []),
        ('rate_limit="10/second", reuse="7 days", version="2"', []),
        ('rate_limit="${OWN}"', ["rate_limit is ${OWN}, which template.yaml doesn't set for Ingest"]),
        (
            'reuse="${GONE}", version="${SHARED}"',
            ["reuse is ${GONE}, which template.yaml doesn't set for Process, Initiate, Ingest"],
        ),
    ],
)
def test_variables_that_a_lambda_lacks(tmp_path: Path, arguments: str, lacking: list[str]) -> None:
    template = Template(Path("template.yaml"), yaml_parse(TEMPLATE))
    findings = list(lint_variables(declared(tmp_path, arguments), LAMBDAS, template))
    assert [finding.problem for finding in findings] == lacking
    assert {finding.file for finding in findings} <= {"lambdas/functions/first.py"}


def test_a_services_variables_are_those_of_the_lambdas_that_run_services(tmp_path: Path) -> None:
    template = Template(Path("template.yaml"), yaml_parse(TEMPLATE))
    service = SERVICE.replace("10/second", "${OWN}")
    (finding,) = lint_variables(declared(tmp_path, "", service), LAMBDAS, template)
    assert finding.problem == "rate_limit is ${OWN}, which template.yaml doesn't set for Service"
    assert finding.remedy == "add OWN to Globals.Function.Environment.Variables"
