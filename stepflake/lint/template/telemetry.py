"""Logs and traces of Lambdas and state machines."""

from collections.abc import Iterator

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import FUNCTION, STATE_MACHINE, Template, target
from stepflake.lint.values import mapping

_LOG_GROUP = "AWS::Logs::LogGroup"


def logs_expire(template: Template) -> Iterator[Finding]:
    groups = dict(template.of_type(_LOG_GROUP))
    for name, group in groups.items():
        if "RetentionInDays" not in group:
            yield Finding(name, "logs are kept for ever", "give it RetentionInDays")
    for name, function in template.of_type(FUNCTION):
        logging = mapping(function.get("LoggingConfig"))
        if target(logging.get("LogGroup")) not in groups:
            yield Finding(name, "logs to a group that isn't here", "name one in LoggingConfig")
        if logging.get("LogFormat") != "JSON":
            yield Finding(name, "logs text", "set LogFormat to JSON in LoggingConfig")


def lambdas_are_described_and_traced(template: Template) -> Iterator[Finding]:
    for name, function in template.of_type(FUNCTION):
        module = str(function.get("Handler")).rpartition(".")[0].replace(".", "/")
        if not (template.folder / "lambdas" / f"{module}.py").exists():
            yield Finding(name, f"there is no lambdas/{module}.py", "fix its Handler")
        if function.get("Tracing") != "Active":
            yield Finding(name, "isn't traced", "set Tracing to Active")
        if "Description" not in function:
            yield Finding(name, "has no Description", "say in a line what it does")


def machines_are_traced_and_logged(template: Template) -> Iterator[Finding]:
    groups = dict(template.of_type(_LOG_GROUP))
    for name, machine in template.of_type(STATE_MACHINE):
        if not mapping(machine.get("TracingConfiguration")).get("Enabled"):
            yield Finding(name, "isn't traced", "set TracingConfiguration to Enabled")
        if "DefinitionS3Location" not in machine:
            problem = "its definition isn't in statemachines/, where the lint looks"
            yield Finding(name, problem, "use DefinitionS3Location")
        logging = mapping(machine.get("LoggingConfiguration"))
        logged_to = {
            target(destination["CloudWatchLogsLogGroup"]["LogGroupArn"])
            for destination in logging.get("Destinations", [])
        }
        if logging.get("Level") in (None, "OFF") or not logged_to & set(groups):
            remedy = "give it LoggingConfiguration with a Level and a log group of this template"
            yield Finding(name, "logs nothing", remedy)
        if logging.get("IncludeExecutionData"):
            yield Finding(name, "logs rows", "set IncludeExecutionData to false")
