"""The version of a function's code, so that results of other code are not reused.

Read from the files, without running them: the function's own, and those of the bundle that it imports, and in
turn what these import. The values of the environment's variables that they name belong to it too, since
another engine or language has other results. What only running would show is not seen: names that are
computed, installed packages, files of data. For these the author names a version.
"""

import ast
import hashlib
import os
import re
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
    for _, source, tree in sorted(_closure(path), key=lambda module: module[0]):
        digest.update(hashlib.sha256(source).digest())
        variables.update(_variables(tree))
    for name in sorted(variables):
        digest.update(f"{name}={os.environ.get(name)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _closure(path: Path) -> Iterator[tuple[Path, bytes, ast.Module]]:
    """The module of a file and those of the bundle that it imports, also through others."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            source = file.read_bytes()
            tree = ast.parse(source, str(file))
            yield file, source, tree
            waiting.extend(_imports(file, tree))


def _imports(file: Path, tree: ast.Module) -> Iterator[Path]:
    """The files of the bundle that a module imports, also inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(LAMBDAS_DIR, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[node.level - 1] if node.level else LAMBDAS_DIR
            package = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files(folder, [*package, alias.name])


def _files(folder: Path, names: list[str]) -> Iterator[Path]:
    """Those that the import of a dotted name runs: the packages on its way, and the module.

    The last name may be one of the module's own, of which there is no file.
    """
    if folder == LAMBDAS_DIR and names[0] in _installed(folder):
        return
    for name in names:
        folder /= name
        for file in (folder / "__init__.py", folder.with_name(f"{name}.py")):
            # What all functions import says nothing of this one's results.
            if file.is_file() and file != LAMBDAS_DIR / "stepflake_lambda.py":
                yield file


@cache
def _installed(bundle: Path) -> frozenset[str]:
    """The names of installed modules and packages, which lie beside the project's in the bundle.

    https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
    """
    return frozenset(
        re.split("[/,]", line, maxsplit=1)[0].removesuffix(".py")
        for record in bundle.glob("*.dist-info/RECORD")
        for line in record.read_text("utf-8").splitlines()
    )


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
