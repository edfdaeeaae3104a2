"""Names in lambdas/ that an installed package or the standard library has too are reported."""

from pathlib import Path

import pytest

from stepflake.lint.names import lint_names

DISTRIBUTIONS = {"batch": ["stepflake"], "yaml": ["PyYAML"], "shared": ["one", "stepflake", "another"]}


@pytest.fixture
def lambdas(tmp_path: Path) -> Path:
    folder = tmp_path / "lambdas"
    for name in ("batch", "fan_out", "__pycache__"):
        (folder / name).mkdir(parents=True)
    for name in ("stepflake_lambda.py", "requirements.txt", "fan_out/yaml.py"):
        (folder / name).touch()
    return folder


def findings(lambdas: Path) -> list[str]:
    return [str(each).removeprefix(f"{lambdas}/") for each in lint_names(lambdas, DISTRIBUTIONS)]


def test_the_projects_own_names_are_in_order(lambdas: Path) -> None:
    assert findings(lambdas) == []


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        (
            "yaml",
            "the installed package PyYAML is imported as yaml too; rename lambdas/yaml, or do without the",
        ),
        ("yaml.py", "the installed package PyYAML is imported as yaml too; rename lambdas/yaml.py, or do"),
        ("shared", "the installed package another, one is imported as shared too; rename lambdas/shared, or"),
        ("queue", "Python's standard library has queue; rename lambdas/queue"),
    ],
)
def test_a_name_that_something_else_has_is_found(lambdas: Path, name: str, finding: str) -> None:
    if name.endswith(".py"):
        (lambdas / name).touch()
    else:
        (lambdas / name).mkdir()

    [line] = findings(lambdas)

    assert line.startswith(f"{name}: {finding}")
