"""Imports between rooms: what is allowed, and how each import that is not is reported."""

from pathlib import Path

import pytest

from stepflake.lint.rooms import lint_rooms

ROOT = Path(__file__).parents[3]
HANDLER = "def handler(event: object, context: object) -> None: ...\n"


def checkout(folder: Path, **added: str) -> Path:
    """Two rooms, core, and the developer's side, with a line `added` to some of the modules."""
    modules = {
        "lambdas/core/settings.py": "",
        "lambdas/grade/check.py": "from core import settings\nfrom grade import rules\n" + HANDLER,
        "lambdas/grade/store.py": HANDLER,
        "lambdas/grade/rules.py": "",
        "lambdas/remind/send.py": "from core import settings\n" + HANDLER,
        "stepflake/cli.py": "from core import settings\nfrom stepflake import errors\n",
        "stepflake/errors.py": "",
    }
    modules |= {path: modules[path] + line + "\n" for path, line in added.items()}
    for path, source in modules.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(source)
    for package in ("commands", "snowflake", "local", "lint"):
        (folder / "stepflake" / package).mkdir()
        (folder / "stepflake" / package / "__init__.py").touch()
    for module in ("runs", "rates", "reuse", "options", "callers", "tables", "stack", "progress"):
        (folder / "stepflake" / f"{module}.py").touch()
    return folder


def test_this_projects_imports_are_in_order() -> None:
    assert list(lint_rooms(ROOT)) == []


def test_core_and_the_room_itself_may_be_imported(tmp_path: Path) -> None:
    assert list(lint_rooms(checkout(tmp_path))) == []


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("lambdas/remind/send.py", "from grade import rules", "imports grade.rules, but a room imports core"),
        ("lambdas/core/settings.py", "from grade import rules", "imports grade.rules, but core imports no"),
        (
            "lambdas/grade/check.py",
            "from grade import store",
            "imports grade.store, but a handler imports no",
        ),
        ("lambdas/grade/rules.py", "import stepflake.errors", "imports stepflake.errors, but lambdas/ never"),
        ("stepflake/errors.py", "from stepflake import cli", "imports stepflake.cli, but stepflake imports"),
    ],
)
def test_a_forbidden_import_is_named(tmp_path: Path, path: str, line: str, problem: str) -> None:
    folder = checkout(tmp_path, **{path: line})
    lines = (folder / path).read_text().splitlines()
    findings = [finding for finding in lint_rooms(folder) if finding.file == str(folder / path)]
    assert [finding for finding in findings if finding.problem.startswith(problem)], findings
    assert {finding.where for finding in findings} == {f"line {lines.index(line) + 1}"}
    assert all(finding.remedy.startswith(("move", "stepflake/")) for finding in findings)


def test_a_module_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    folder = checkout(tmp_path, **{"lambdas/grade/rules.py": "def rules(:"})
    (finding,) = lint_rooms(folder)
    assert "rules.py" in finding.problem
