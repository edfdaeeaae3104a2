"""All that `stepflake lint` checks: definitions, template, workflows, declarations, names and imports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import packages_distributions
from pathlib import Path

from core.catalog import CatalogError, read_workflows
from stepflake.callers import read_callers
from stepflake.lint.asl.definition import lint_definition_file
from stepflake.lint.calls import lint_limits, lint_variables
from stepflake.lint.finding import Finding
from stepflake.lint.names import lint_names
from stepflake.lint.rooms import lint_rooms
from stepflake.lint.template import lint_template
from stepflake.lint.template.document import STATE_MACHINE, Template
from stepflake.lint.values import mapping
from stepflake.lint.workflows import lint_workflows

_DEFINITION = ".asl.json"


@dataclass
class Report:
    """What was found, and in how many definitions with how many states."""

    definitions: int = 0
    states: int = 0
    findings: list[Finding] = field(default_factory=list)


def lint_definitions(paths: Sequence[Path], template: Template | None) -> Report:
    """Check definition files, and their placeholders against the `template` that deploys them, if any.

    Raises OSError.
    """
    report = Report(definitions=len(paths))
    for path in paths:
        machine = template.machine_of(path) if template else None
        given = list(mapping(machine[1].get("DefinitionSubstitutions"))) if machine else None
        findings, states = lint_definition_file(path, given)
        report.findings += findings
        report.states += states
    return report


def lint_project(folder: Path, template: Template | None) -> Report:
    """Check a project's definitions, its `template` if it has one, and its lambdas. Raises OSError."""
    paths = definitions_of(folder)
    report = lint_definitions(paths, template)
    lambdas = folder / "lambdas"
    report.findings += _declarations(lambdas, template)
    report.findings += lint_names(lambdas, packages_distributions())
    report.findings += lint_rooms(folder)
    if template:
        definitions = [path.name.removesuffix(_DEFINITION) for path in paths]
        inputs = [path.parent.name for path in lambdas.glob("*/input.json")]
        of_template = [*_missing_definitions(template, paths), *lint_template(template)]
        report.findings += [replace(finding, file=str(template.path)) for finding in of_template]
        report.findings += lint_workflows(template, definitions, inputs)
    return report


def definitions_of(folder: Path) -> list[Path]:
    """The project's definition files."""
    return sorted((folder / "statemachines").glob(f"*{_DEFINITION}"))


def _missing_definitions(template: Template, paths: Sequence[Path]) -> Iterator[Finding]:
    known = {path.resolve() for path in paths}
    for name, machine in template.of_type(STATE_MACHINE):
        uri = machine.get("DefinitionS3Location")
        if isinstance(uri, str) and (template.folder / uri).resolve() not in known:
            problem = f"the DefinitionS3Location {Path(uri).name} is no file in statemachines/"
            yield Finding(name, problem, "fix its name")


def _declarations(lambdas: Path, template: Template | None) -> Iterator[Finding]:
    """Remote functions, services and inputs of workflows; an invalid one fails every request."""
    try:
        callers = read_callers(lambdas)
        read_workflows(lambdas)
    except CatalogError as error:
        # Its message begins with the file and the line.
        yield Finding("", str(error), "fix the declaration")
        return
    yield from lint_limits(callers, lambdas)
    if template:
        yield from lint_variables(callers, lambdas, template)
