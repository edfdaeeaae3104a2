"""A workflow that is missing in a place is reported once for it, with the line to add."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from stepflake.lint.template.document import Template
from stepflake.lint.workflows import lint_workflows
from tests.unit.lint.edits import Document, Edit, at, drop, put

ROOT = Path(__file__).parents[3]
TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8"))
WORKFLOWS = {"etl": "Etl", "fan_out": "FanOut", "ingest": "Ingest", "pipeline": "Pipeline"}
ARN = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:"
MACHINE, RUNS = ARN + "stateMachine:${AWS::StackName}-%s", ARN + "execution:${AWS::StackName}-%s:*"
# Where the lists of workflows are.
BATCH_ROLE = "Resources.BatchStateMachineRole.Properties.Policies[0].PolicyDocument.Statement[1].Resource"
RECORD_ROLE = "Resources.RecordRunFunctionRole.Properties.Policies[0].PolicyDocument.Statement[0].Resource"
FUNCTION_POLICY = "Resources.RemoteFunctionPolicy.Properties.PolicyDocument.Statement[0].Resource"


def findings(
    edit: Edit | None = None,
    *,
    definitions: Sequence[str] = ("batch", *WORKFLOWS),
    inputs: Sequence[str] = tuple(WORKFLOWS),
) -> list[str]:
    document: Document = json.loads(json.dumps(TEMPLATE))  # what anchors share may be changed in one place
    if edit:
        edit(document)
    return [
        str(finding)
        for finding in lint_workflows(Template(Path("template.yaml"), document), definitions, inputs)
    ]


def unlist(path: str, arn: str) -> Edit:
    return lambda document: at(document, path).remove({"Fn::Sub": arn})


def test_the_projects_workflows_are_complete() -> None:
    assert sorted(path.parent.name for path in ROOT.glob("lambdas/*/input.json")) == list(WORKFLOWS)
    assert findings() == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_without_a_definition_is_found(name: str) -> None:
    definitions = ["batch", *(other for other in WORKFLOWS if other != name)]

    assert findings(definitions=definitions) == [
        f"lambdas/{name}/input.json: there is no statemachines/{name}.asl.json; "
        "write the workflow's definition there"
    ]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_definition_without_an_input_is_found(name: str) -> None:
    assert findings(inputs=[other for other in WORKFLOWS if other != name]) == [
        f"statemachines/{name}.asl.json: there is no lambdas/{name}/input.json; "
        "write the JSON Schema of the workflow's input there"
    ]


@pytest.mark.parametrize(("name", "prefix"), [*WORKFLOWS.items(), ("batch", "Batch")])
def test_a_definition_without_a_machine_is_found(name: str, prefix: str) -> None:
    assert findings(drop("Resources", f"{prefix}StateMachine")) == [
        f"statemachines/{name}.asl.json: template.yaml doesn't deploy it; add a state machine with "
        f"DefinitionS3Location: statemachines/{name}.asl.json and "
        f"StateMachineName: !Sub ${{AWS::StackName}}-{name}"
    ]


@pytest.mark.parametrize(("name", "prefix"), [*WORKFLOWS.items(), ("batch", "Batch")])
@pytest.mark.parametrize("other_name", ["etl-runs", {"Fn::Sub": "${AWS::StackName}-other"}, None])
def test_a_machine_without_the_expected_name_is_found(name: str, prefix: str, other_name: object) -> None:
    assert findings(put(f"Resources.{prefix}StateMachine.Properties", StateMachineName=other_name)) == [
        f"template.yaml: {prefix}StateMachine: doesn't have the name by which Lambdas and roles know it; "
        f"write StateMachineName: !Sub ${{AWS::StackName}}-{name}"
    ]


@pytest.mark.parametrize("name", WORKFLOWS)
@pytest.mark.parametrize(
    ("path", "arn", "problems"),
    [
        (BATCH_ROLE, MACHINE, ["BatchStateMachineRole: may not StartExecution of {} for a row of SQL"]),
        (BATCH_ROLE, RUNS, ["BatchStateMachineRole: may not DescribeExecution of {} for a row of SQL"]),
        (RECORD_ROLE, MACHINE, []),
        (RECORD_ROLE, RUNS, ["RecordRunFunctionRole: may not DescribeExecution of {} for a row's result"]),
        (
            FUNCTION_POLICY,
            MACHINE,
            ["RemoteFunctionPolicy: may not StartExecution of {} for run_status and run_resume"],
        ),
        (
            FUNCTION_POLICY,
            RUNS,
            [
                "RemoteFunctionPolicy: may not DescribeExecution of {} for run_status and run_resume",
                "RemoteFunctionPolicy: may not RedriveExecution of {} for run_status and run_resume",
            ],
        ),
    ],
)
def test_a_missing_permission_is_found(name: str, path: str, arn: str, problems: list[str]) -> None:
    assert findings(unlist(path, arn % name)) == [
        f"template.yaml: {problem.format(name)}; add to its list of workflows: - !Sub {arn % name}"
        for problem in problems
    ]


def test_the_runs_of_all_stacks_whose_names_begin_alike_are_not_those_of_a_workflow() -> None:
    def widen(document: Document) -> None:
        at(document, RECORD_ROLE)[:] = [{"Fn::Sub": RUNS.replace("-%s:", "-*:")}]

    assert len(findings(widen)) == len(WORKFLOWS)


def test_a_machine_may_be_listed_by_reference_too() -> None:
    def refer(document: Document) -> None:
        unlist(BATCH_ROLE, MACHINE % "etl")(document)
        at(document, BATCH_ROLE).append({"Ref": "EtlStateMachine"})

    assert findings(refer) == []


@pytest.mark.parametrize(("name", "prefix"), WORKFLOWS.items())
def test_a_machine_without_an_alarm_is_found(name: str, prefix: str) -> None:
    alarm = f"{prefix}FailedAlarm"
    expected = [
        f"template.yaml: {prefix}StateMachine: no alarm watches its ExecutionsFailed; "
        f"add {alarm} to its section, with MetricName: ExecutionsFailed and "
        f"Dimensions: [{{ Name: StateMachineArn, Value: !Ref {prefix}StateMachine }}]"
    ]

    assert findings(drop("Resources", alarm)) == expected
    assert findings(put(f"Resources.{alarm}.Properties", MetricName="ExecutionsStarted")) == expected
    other = [{"Name": "StateMachineArn", "Value": {"Ref": "BatchStateMachine"}}]
    assert findings(put(f"Resources.{alarm}.Properties", Dimensions=other)) == expected


@pytest.mark.parametrize("prefix", WORKFLOWS.values())
def test_a_machine_without_an_output_is_found(prefix: str) -> None:
    assert findings(drop("Outputs", f"{prefix}StateMachineArn")) == [
        f"template.yaml: Outputs: none gives the ARN of {prefix}StateMachine; "
        f"add {prefix}StateMachineArn with Value: !Ref {prefix}StateMachine"
    ]


def test_a_new_workflow_is_reported_in_every_place() -> None:
    lines = findings(inputs=["new_one", *WORKFLOWS])

    assert [line.split("; ")[0] for line in lines] == [
        "lambdas/new_one/input.json: there is no statemachines/new_one.asl.json",
        "statemachines/new_one.asl.json: template.yaml doesn't deploy it",
        "template.yaml: BatchStateMachineRole: may not StartExecution of new_one for a row of SQL",
        "template.yaml: BatchStateMachineRole: may not DescribeExecution of new_one for a row of SQL",
        "template.yaml: RecordRunFunctionRole: may not DescribeExecution of new_one for a row's result",
        *(
            f"template.yaml: RemoteFunctionPolicy: may not {action} of new_one for run_status and run_resume"
            for action in ("StartExecution", "DescribeExecution", "RedriveExecution")
        ),
        "template.yaml: NewOneStateMachine: no alarm watches its ExecutionsFailed",
        "template.yaml: Outputs: none gives the ARN of NewOneStateMachine",
    ]
