"""`stepflake lint`: what it reads, what it prints, and that it checks all parts of a project."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from stepflake.commands.lint import lint
from tests.unit.lint.test_definition import GOOD

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Logs: { Type: AWS::Logs::LogGroup, Properties: { KmsKeyId: key, RetentionInDays: 1 } }
  GoodStateMachine:
    Type: AWS::StepFunctions::StateMachine
    Properties:
      StateMachineName: !Sub ${AWS::StackName}-good
      DefinitionS3Location: statemachines/good.asl.json
      DefinitionSubstitutions: { Arn: !GetAtt F.Arn, Concurrency: 4, Queue: !Ref Q }
      RoleArn: !GetAtt BatchStateMachineRole.Arn
      EncryptionConfiguration: { Type: CUSTOMER_MANAGED_KMS_KEY, KmsKeyId: key }
      TracingConfiguration: { Enabled: true }
      LoggingConfiguration:
        Level: ERROR
        Destinations: [{ CloudWatchLogsLogGroup: { LogGroupArn: !GetAtt Logs.Arn } }]
  BatchStateMachineRole:
    Type: AWS::IAM::Role
    Properties:
      Policies:
        - PolicyDocument: &Workflows
            Statement:
              - Effect: Allow
                Action:
                  - states:StartExecution
                  - states:DescribeExecution
                  - states:StopExecution
                  - states:RedriveExecution
                Resource:
                  - !Sub arn:aws:states:us-east-1:1:stateMachine:${AWS::StackName}-good
                  - !Sub arn:aws:states:us-east-1:1:execution:${AWS::StackName}-good:*
  RecordRunFunctionRole: { Type: AWS::IAM::Role, Properties: { Policies: [{ PolicyDocument: *Workflows }] } }
  RemoteFunctionPolicy: { Type: AWS::IAM::ManagedPolicy, Properties: { PolicyDocument: *Workflows } }
  GoodFailedAlarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: AWS/States
      MetricName: ExecutionsFailed
      Dimensions: [{ Name: StateMachineArn, Value: !Ref GoodStateMachine }]
Outputs:
  GoodStateMachineArn: { Value: !Ref GoodStateMachine }
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one workflow, `good`."""
    for folder in ("statemachines", "lambdas/good", "lambdas/functions"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "statemachines" / "good.asl.json").write_text(json.dumps(GOOD))
    (tmp_path / "lambdas" / "good" / "input.json").write_text('{"description": "Good."}')
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(lint, arguments)
    return result.exit_code, result.output


def test_the_command_says_what_it_checked(project: Path) -> None:
    assert run() == (0, "1 machine and 11 states checked: nothing to fix\n")


def test_the_command_lists_every_finding_with_file_place_and_remedy(project: Path) -> None:
    broken = {**GOOD, "StartAt": "Strat", "Timeout": 1}
    (project / "statemachines" / "broken.asl.json").write_text(json.dumps(broken))

    code, output = run()

    assert code == 1
    file = "statemachines/broken.asl.json"
    assert (
        f"{file}: StartAt: there is no state 'Strat' here; name one that is (did you mean 'Start'?)\n"
        in output
    )
    assert f"{file}: there is no field 'Timeout' here; remove it (did you mean 'TimeoutSeconds'?)\n" in output
    assert (
        f"{file}: template.yaml doesn't deploy it; add a state machine with DefinitionS3Location: {file}"
        in output
    )
    assert f"{file}: there is no lambdas/broken/input.json; write the JSON Schema of" in output
    assert "2 machines and 22 states checked: " in output


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            ", Queue: !Ref Q",
            "",
            "good.asl.json: ${Queue} is not among the template's DefinitionSubstitutions",
        ),
        ("Queue: !Ref Q", "Queue: !Ref Q, Old: 1", "good.asl.json: the template substitutes Old, which"),
        (
            "good.asl",
            "gone.asl",
            "GoodStateMachine: the DefinitionS3Location gone.asl.json is no file in statemachines/",
        ),
        ("RetentionInDays: 1", "", "template.yaml: Logs: logs are kept for ever; give it RetentionInDays"),
        (
            "Value: !Ref GoodStateMachine }\n",
            "Value: 1 }\n",
            "template.yaml: Outputs: none gives the ARN of Good",
        ),
        ("Transform:", "\t- {", "template.yaml is not YAML: "),
    ],
)
def test_the_command_compares_with_the_template(project: Path, old: str, new: str, line: str) -> None:
    (project / "template.yaml").write_text(TEMPLATE.replace(old, new))

    code, output = run()

    assert code == 1
    assert line in output


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "good.asl.json: not JSON: "),
        ("[]", "good.asl.json: not a JSON object"),
        ('{"States": {"A": {}, "A": {}}}', "good.asl.json: the key 'A' stands twice in one object"),
        ('{"States": []}', "good.asl.json: States: [] can't stand here; list the states"),
        (
            '{"States": {"A": []}}',
            "good.asl.json: States.A: [] can't stand here; write the state as an object",
        ),
    ],
)
def test_a_file_that_is_not_a_definition_is_a_finding(project: Path, text: str, line: str) -> None:
    file = project / "statemachines" / "good.asl.json"
    file.write_text(text)

    code, output = run(str(file))

    assert code == 1
    assert line in output


def test_files_may_be_named_and_need_no_template(project: Path) -> None:
    (project / "template.yaml").unlink()

    assert run("statemachines/good.asl.json") == (0, "1 machine and 11 states checked: nothing to fix\n")


def test_nothing_to_check_and_a_missing_file_are_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    code, output = run()
    assert (code, "there is no statemachines/*.asl.json here" in output) == (2, True)
    code, output = run("missing.asl.json")
    assert (code, "'missing.asl.json' does not exist" in output) == (2, True)


def test_a_template_that_is_not_an_object_is_an_error(project: Path) -> None:
    (project / "template.yaml").write_text("[]")

    assert run() == (1, "Error: template.yaml is not a template: it is not an object\n")


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        (
            "functions/broken.py",
            "def broken(): ...",
            "lambdas/functions/broken.py: expected exactly one function",
        ),
        (
            "services/broken.py",
            "@service(rate='1/second')\ndef broken(document): ...",
            "lambdas/services/broken.py:1: @service has no argument rate; it has rate_limit, ",
        ),
        ("good/input.json", "{", "lambdas/good/input.json:1: this is not JSON: Expecting property name"),
        ("queue/handler.py", "", "lambdas/queue: Python's standard library has queue; rename lambdas/queue"),
        (
            "click/handler.py",
            "",
            "lambdas/click: the installed package click is imported as click too; rename",
        ),
        (
            "other/input.json",
            "{}",
            "lambdas/other/input.json: there is no statemachines/other.asl.json; write",
        ),
    ],
)
def test_the_command_checks_lambdas(project: Path, path: str, text: str, line: str) -> None:
    file = project / "lambdas" / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)

    code, output = run()

    assert code == 1
    assert line in output


def test_the_command_checks_what_is_said_about_calls(project: Path) -> None:
    lambdas = project / "lambdas"
    (lambdas / "services").mkdir()
    function = "@remote_function(rate_limit='5/second')\ndef api(text: str) -> str: ...\n"
    (lambdas / "functions" / "api.py").write_text(function)
    service = "@service(rate_limit='${GONE}', calls='api')\ndef check(document): ...\n"
    (lambdas / "services" / "check.py").write_text(service)
    runner = "  Runner: { Type: AWS::Serverless::Function, Properties: { Handler: fan_out.work.handler } }\n"
    (project / "template.yaml").write_text(TEMPLATE.replace("Outputs:", f"{runner}Outputs:"))

    code, output = run()

    assert code == 1
    assert "lambdas/services/check.py: it declares the limit 'api' with rate_limit=\"${GONE}\", and" in output
    assert (
        "check.py: rate_limit is ${GONE}, which template.yaml doesn't set for Runner; add GONE to" in output
    )


def test_files_that_are_named_are_checked_alone(project: Path) -> None:
    (project / "lambdas" / "good" / "input.json").unlink()
    (project / "template.yaml").write_text(TEMPLATE.replace("RetentionInDays: 1", ""))

    assert run("statemachines/good.asl.json") == (0, "1 machine and 11 states checked: nothing to fix\n")
