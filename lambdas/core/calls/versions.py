"""The version of a function's code, so that results of other code are not reused.

Read from the files, without running them: the function's own, and those of the bundle that it imports, and in
turn what these import. The values of the environment's variables that they name belong to it too, since
another engine or language has other results.
"""

import ast
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from core.catalog import LAMBDAS_DIR

# What gives the value of a variable of the environment by its name.
_READERS = frozenset({"os.environ.get", "os.getenv", "getenv", "environ.get", "setting"})


@cache
def code_version(path: Path, named: str) -> str:
    """16 hex digits of the code in `path` and what it imports, and of the version that its author names."""
    digest = hashlib.sha256(named.encode("utf-8"))
    variables: set[str] = set()
    for file in sorted(_closure(path)):
        source = file.read_bytes()
        digest.update(hashlib.sha256(source).digest())
        variables.update(_variables(ast.parse(source)))
    for name in sorted(variables):
        digest.update(f"{name}={os.environ.get(name)}\n".encode())
    return digest.hexdigest()[:16]


def _closure(path: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting.extend(_imports(ast.parse(file.read_bytes())))
    return found


def _imports(tree: ast.Module) -> Iterator[Path]:
    """The files of the bundle that a module imports, also inside its functions."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = LAMBDAS_DIR.joinpath(*name.split(".")).with_suffix(".py")
            # What all functions import says nothing of this one's results.
            if path.is_file() and path != LAMBDAS_DIR / "stepflake_lambda.py":
                yield path


def _variables(tree: ast.Module) -> Iterator[str]:
    """The names of variables of the environment that a module reads."""
    for node in ast.walk(tree):
        key: ast.expr | None = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("os.environ", "environ"):
            key = node.slice
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in _READERS:
            key = node.args[0]
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value
