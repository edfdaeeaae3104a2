"""Names on Lambda's import path: what lambdas/ has at its top level must not hide a package, or be hidden."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stepflake.lint.finding import Finding

# Installed for development, it offers what is in lambdas/ itself.
_OWN_DISTRIBUTION = "stepflake"


def lint_names(lambdas: Path, distributions: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Compare the folders and modules of `lambdas` with the installed packages and the standard library.

    In the bundle both are in one folder: a package of the same name would overwrite the project's, or the
    project's would be imported in its place. `distributions`: the distributions that have each top-level
    import name, as `importlib.metadata.packages_distributions` gives them.
    """
    for path in sorted(lambdas.glob("*")):
        name = path.stem if path.suffix == ".py" else path.name
        if not name.isidentifier() or name.startswith("__"):
            continue
        remedy = f"rename lambdas/{path.name}"
        if name in sys.stdlib_module_names:
            yield Finding("", f"Python's standard library has {name}", remedy, str(path))
        others = sorted(set(distributions.get(name, ())) - {_OWN_DISTRIBUTION})
        if others:
            problem = f"the installed package {', '.join(others)} is imported as {name} too"
            yield Finding("", problem, f"{remedy}, or do without the package", str(path))
