"""Imports between rooms: a folder of lambdas/ imports itself and core, and a handler imports no handler.

The contracts are import-linter's (https://import-linter.readthedocs.io). They are made from the folders that
are there, so that a new workflow's room is held from its first line on.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepflake.lint.finding import Finding

# What every room may import. It imports no room itself.
SHARED = "core"

# The developer's side, which is not deployed: from the command line down to what everything may import.
_LAYERS = [
    "stepflake.cli",
    "stepflake.commands",
    "stepflake.runs | stepflake.rates | stepflake.reuse | stepflake.options",
    "stepflake.snowflake | stepflake.local | stepflake.lint",
    "stepflake.callers | stepflake.tables",
    "stepflake.stack",
    "stepflake.progress | stepflake.errors",
]

_HANDLER = re.compile(r"^def handler\(", re.MULTILINE)

# The contracts, and what to do about an import that breaks one.
_REMEDIES = {
    "a room imports core and itself, and no other room": "move what both rooms use to lambdas/core",
    "core imports no room": "move what core needs there to lambdas/core",
    "a handler imports no handler": "move what both use to a module of their room",
    "lambdas/ never imports stepflake": "stepflake/ is not deployed; move what Lambdas need to lambdas/",
    "stepflake imports from its commands downwards": "move what both use to the lower layer",
}
_BETWEEN_ROOMS, _FROM_CORE, _BETWEEN_HANDLERS, _FROM_LAMBDAS, _UPWARDS = _REMEDIES
# As import-linter prints an import: importer -> imported (l.12), perhaps with more lines behind the first.
_IMPORT = re.compile(r"([\w.]+) -> ([\w.]+) \(l\.(\d+)")


def lint_rooms(folder: Path) -> Iterator[Finding]:
    """Check the imports of the rooms in `folder`/lambdas, and of `folder`/stepflake where that is there.

    Raises OSError where import-linter cannot be run.
    """
    contracts = _contracts(folder)
    if not contracts:
        return
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / "contracts.toml"
        config.write_text(_toml(contracts), encoding="utf-8")
        paths = [str(folder.resolve() / "lambdas"), str(folder.resolve())]
        result = subprocess.run(  # noqa: S603
            [
                str(Path(sys.executable).parent / "lint-imports"),
                "--config",
                str(config),
                "--no-cache",
                "--no-logo",
            ],
            capture_output=True,
            text=True,
            check=False,
            # import-linter looks in the current directory first, before what is installed.
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1", "COLUMNS": "1000"},
        )
    if result.returncode:
        found = list(dict.fromkeys(_findings(folder, result.stdout)))
        # Without one it did not come to check: the output says why.
        yield from found or [
            Finding("", f"import-linter: {result.stdout}{result.stderr}".strip(), "fix that")
        ]


def _contracts(folder: Path) -> list[dict[str, Any]]:
    lambdas = folder / "lambdas"
    packages = sorted(path.parent.name for path in lambdas.glob("*/__init__.py"))
    rooms = [name for name in packages if name != SHARED]
    contracts: list[dict[str, Any]] = []
    if len(rooms) > 1:
        contracts.append(_independent(_BETWEEN_ROOMS, rooms))
    if rooms and SHARED in packages:
        contracts.append(_forbidden(_FROM_CORE, [SHARED], rooms))
    if len(handlers := _handlers(lambdas)) > 1:
        contracts.append(_independent(_BETWEEN_HANDLERS, handlers))
    if packages and (folder / "stepflake" / "__init__.py").exists():
        contracts.append(_forbidden(_FROM_LAMBDAS, packages, ["stepflake"]))
        contracts.append({"name": _UPWARDS, "type": "layers", "layers": _LAYERS})
    return contracts


def _independent(name: str, modules: list[str]) -> dict[str, Any]:
    return {"name": name, "type": "independence", "modules": modules}


def _forbidden(name: str, sources: list[str], targets: list[str]) -> dict[str, Any]:
    return {"name": name, "type": "forbidden", "source_modules": sources, "forbidden_modules": targets}


def _handlers(lambdas: Path) -> list[str]:
    """The modules that have a Lambda's handler."""
    return [
        f"{path.parent.name}.{path.stem}"
        for path in sorted(lambdas.glob("*/*.py"))
        if _HANDLER.search(path.read_text(encoding="utf-8"))
    ]


def _toml(contracts: list[dict[str, Any]]) -> str:
    """import-linter's configuration; strings and lists of strings are the same in JSON and TOML."""
    members = [value for contract in contracts for value in contract.values() if isinstance(value, list)]
    roots = sorted({re.split(r"[. ]", module)[0] for modules in members for module in modules})
    lines = ["[tool.importlinter]", f"root_packages = {json.dumps(roots)}"]
    lines.append("exclude_type_checking_imports = true")
    for contract in contracts:
        lines.append("[[tool.importlinter.contracts]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in contract.items()]
    return "\n".join(lines) + "\n"


def _findings(folder: Path, report: str) -> Iterator[Finding]:
    """The imports that break a contract, each by its file and line."""
    contract = ""
    for chain in re.split(r"\n(?=-\s+\w)|\n\n", report):
        for line in chain.splitlines():
            contract = line if line in _REMEDIES else contract
        # A contract may be broken through other modules: the last import of a chain is the one that leaves.
        if imports := _IMPORT.findall(chain):
            importer, imported, line_number = imports[-1]
            problem = f"imports {imported}, but {contract}"
            yield Finding(f"line {line_number}", problem, _REMEDIES[contract], _file(folder, importer))


def _file(folder: Path, module: str) -> str:
    path = Path(*module.split("."))
    parent = "" if path.parts[0] == "stepflake" else "lambdas"
    plain = folder / parent / path.with_suffix(".py")
    return str(plain if plain.exists() else folder / parent / path / "__init__.py")
