"""What belongs to a workflow: a folder of lambdas/ with an input.json, a definition, and a section of the
template.

Each place that lacks the workflow is a finding with the line to add. No deployment would show it: the
workflow is there, but SQL may not start it or read its runs, or nobody learns that it fails.
"""

from collections.abc import Collection, Iterator

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import Document, Template, alternatives, substituted, target
from stepflake.lint.template.permissions import statements

# The machine behind the remote functions: the adapter itself starts it, and writes its input.
ADAPTER = "batch"
_START = "states:StartExecution"
# Who must be allowed to do what with every workflow's machine and runs, and for what.
NEEDS = {
    "BatchStateMachineRole": ("for a row of SQL", [_START, "states:DescribeExecution"]),
    "RecordRunFunctionRole": ("for a row's result", ["states:DescribeExecution"]),
    "RemoteFunctionPolicy": (
        "for run_status and run_resume",
        [_START, "states:DescribeExecution", "states:RedriveExecution"],
    ),
}
_ARN = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}"


def lint_workflows(
    template: Template, definitions: Collection[str], inputs: Collection[str]
) -> Iterator[Finding]:
    """`definitions`: the names of statemachines/{name}.asl.json; `inputs`: of lambdas/{name}/input.json."""
    for name in sorted({*definitions, *inputs}):
        if name not in definitions:
            remedy = "write the workflow's definition there"
            yield Finding("", f"there is no {_definition(name)}", remedy, _schema(name))
        if name not in inputs and name != ADAPTER:
            remedy = "write the JSON Schema of the workflow's input there"
            yield Finding("", f"there is no {_schema(name)}", remedy, _definition(name))
        yield from _machine(template, name)
        if name in inputs:
            yield from _places(template, name)


def _machine(template: Template, name: str) -> Iterator[Finding]:
    """Whether a state machine has the workflow's definition, and the name by which others know it."""
    machine_name = f"${{AWS::StackName}}-{name}"
    found = template.machine_of(template.folder / _definition(name))
    if found is None:
        location = f"DefinitionS3Location: {_definition(name)}"
        remedy = f"add a state machine with {location} and StateMachineName: !Sub {machine_name}"
        yield Finding("", f"{template.path.name} doesn't deploy it", remedy, _definition(name))
    elif substituted(found[1].get("StateMachineName")) != machine_name:
        problem = "doesn't have the name by which Lambdas and roles know it"
        yield Finding(found[0], problem, f"write StateMachineName: !Sub {machine_name}", str(template.path))


def _places(template: Template, name: str) -> Iterator[Finding]:
    """Where else the template must mention a workflow."""
    found = template.machine_of(template.folder / _definition(name))
    machine = found[0] if found else _logical_id(name)
    file = str(template.path)
    for owner, (purpose, actions) in NEEDS.items():
        for action in actions:
            if not any(_is_for(action, arn, name, machine) for arn in _allowed(template, owner, action)):
                problem = f"may not {action.partition(':')[2]} of {name} {purpose}"
                remedy = f"add to its list of workflows: - !Sub {_ARN}{_end(action, name)}"
                yield Finding(owner, problem, remedy, file)
    if not any(_watches(alarm, machine) for _, alarm in template.of_type("AWS::CloudWatch::Alarm")):
        alarm = machine.removesuffix("StateMachine") + "FailedAlarm"
        dimensions = f"Dimensions: [{{ Name: StateMachineArn, Value: !Ref {machine} }}]"
        remedy = f"add {alarm} to its section, with MetricName: ExecutionsFailed and {dimensions}"
        yield Finding(machine, "no alarm watches its ExecutionsFailed", remedy, file)
    if not any(output.get("Value") == {"Ref": machine} for output in template.outputs.values()):
        remedy = f"add {machine}Arn with Value: !Ref {machine}"
        yield Finding("Outputs", f"none gives the ARN of {machine}", remedy, file)


def _allowed(template: Template, owner: str, action: str) -> Iterator[object]:
    """The resources on which a role or policy allows an action."""
    for name, statement in statements(template):
        actions = alternatives(statement.get("Action", [])) if statement.get("Effect") == "Allow" else []
        if name == owner and action in actions:
            yield from alternatives(statement.get("Resource", []))


def _is_for(action: str, resource: object, name: str, machine: str) -> bool:
    if resource == {"Ref": machine}:
        return action == _START
    return (substituted(resource) or "").endswith(_end(action, name))


def _end(action: str, workflow: str) -> str:
    """The end of the ARN that an action is allowed on: of a workflow's machine to start it, else of its runs.

    In full: a * after the stack's name would also match stacks whose names begin with it.
    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsstepfunctions.html
    """
    if action == _START:
        return f":stateMachine:${{AWS::StackName}}-{workflow}"
    return f":execution:${{AWS::StackName}}-{workflow}:*"


def _watches(alarm: Document, machine: str) -> bool:
    return (alarm.get("Namespace"), alarm.get("MetricName")) == ("AWS/States", "ExecutionsFailed") and any(
        dimension.get("Name") == "StateMachineArn" and target(dimension.get("Value")) == machine
        for dimension in alarm.get("Dimensions", [])
    )


def _definition(workflow: str) -> str:
    return f"statemachines/{workflow}.asl.json"


def _schema(workflow: str) -> str:
    return f"lambdas/{workflow}/input.json"


def _logical_id(workflow: str) -> str:
    """The id that the project's convention gives a machine: fan_out's is FanOutStateMachine."""
    return "".join(part.capitalize() for part in workflow.split("_")) + "StateMachine"
