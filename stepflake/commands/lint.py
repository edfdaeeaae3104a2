"""`stepflake lint`: reports mistakes in definitions, template and declarations before they are deployed."""

from pathlib import Path

import click

from stepflake.lint.project import definitions_of, lint_definitions, lint_project
from stepflake.lint.template.document import Template


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The SAM template that deploys the definitions.  [default: template.yaml]",
)
def lint(files: tuple[Path, ...], template: Path | None) -> None:
    """Check state machine definitions, the template that deploys them, and the declarations of lambdas/.

    FILES are definitions in Amazon States Language, which are then checked alone. Without them: all of
    statemachines/, the template, what each workflow needs in it, and the declarations and imports of
    lambdas/. Exits with 1 where there is something to fix.
    """
    if not files and not definitions_of(Path()):
        raise click.UsageError(
            "there is no statemachines/*.asl.json here; go to the project's root, or name the files"
        )
    if template is None and Path("template.yaml").exists():
        template = Path("template.yaml")
    try:
        deployed = Template.read(template) if template else None
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    report = lint_definitions(files, deployed) if files else lint_project(Path(), deployed)
    for finding in report.findings:
        click.echo(str(finding))
    machines, states = report.definitions, report.states
    checked = f"{machines} machine{'s' * (machines != 1)} and {states} state{'s' * (states != 1)} checked"
    if report.findings:
        raise click.ClickException(f"{checked}: {len(report.findings)} to fix")
    click.echo(f"{checked}: nothing to fix")
