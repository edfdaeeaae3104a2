"""What SQL can call: remote functions, read from their source without running it, and workflows.

`initiate` must know a function's signature to answer 404 and 400, and must not import what the function
imports (a model, pandas): that would lengthen its own cold start. So the signature is read with `ast`, and
the decorator's arguments must be literals.
"""

import ast
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

LAMBDAS_DIR = Path(__file__).parent.parent
FUNCTIONS_DIR = LAMBDAS_DIR / "functions"

# A type hint and the Snowflake type that crosses the wire as it.
# https://docs.snowflake.com/en/sql-reference/external-functions-data-format
SNOWFLAKE_TYPES = {
    "str": "VARCHAR",
    "int": "NUMBER(38, 0)",
    "float": "FLOAT",
    "Decimal": "NUMBER(38, 10)",
    "bool": "BOOLEAN",
    "date": "DATE",
    "time": "TIME",
    "datetime": "TIMESTAMP_NTZ",
    "bytes": "BINARY",
    "dict": "OBJECT",
    "list": "ARRAY",
    "Any": "VARIANT",
}

# Snowflake sends up to about 4,096 rows in a POST: by default a batch is one chunk, the fewest transitions.
DEFAULT_CHUNK_ROWS = 4096

OnError = Literal["fail", "null", "object"]

# No rate limit, no reuse.
NONE = "none"

# A rate limit: calls in a second, a minute or an hour.
RATE = re.compile(r"(\d+(?:\.\d+)?)/(second|minute|hour)")
# How long results are reused.
PERIOD = re.compile(r"(\d+) (minute|hour|day)s?")
# A variable of the environment in place of a value.
VARIABLE = re.compile(r"\$\{(\w+)\}")

# The arguments of @service, and their types.
SERVICE_OPTIONS = {
    "rate_limit": str,
    "max_concurrency": int,
    "calls": str,
    "reuse": str,
    "version": str,
}

# The arguments of @remote_function, and their types.
FUNCTION_OPTIONS = {
    "vectorized": bool,
    "chunk_rows": int,
    "max_batch_rows": int,
    "rows_per_call": int,
    "concurrency": int,
    "on_error": str,
    "diagnostic": bool,
    "sql_names": tuple,
    "deduplicate": bool,
    **SERVICE_OPTIONS,
}

_COUNTS = ("chunk_rows", "max_batch_rows", "rows_per_call", "concurrency", "max_concurrency")

SQL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")

# The name of a limit, which is part of its key in the table.
LIMIT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class CatalogError(Exception):
    """An invalid file of functions/, or an invalid input.json; the message names the file and the line."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a remote function; `type` is a key of SNOWFLAKE_TYPES."""

    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """What the author of a function or of a service says about its calls, as it is written there.

    `rate_limit`, `reuse` and `version` may be "${NAME}", a variable of the Lambda's environment;
    core.calls.rates and core.calls.reuse read them. `calls`: the limit's name, shared by all that have the
    same; "" is their own name.
    """

    rate_limit: str = NONE
    max_concurrency: int | None = None
    calls: str = ""
    reuse: str = NONE
    version: str = ""

    @property
    def may_be_limited(self) -> bool:
        """Whether there is a limit; that of a variable of the environment may be none."""
        return self.rate_limit != NONE or self.max_concurrency is not None

    @property
    def may_be_reused(self) -> bool:
        """Whether results are kept; a variable of the environment may say that they are not."""
        return self.reuse != NONE


@dataclass(frozen=True)
class Signature(CallOptions):
    """A remote function as SQL sees it, and how its rows are run.

    `variadic`: takes any number of further arguments of the last parameter's type (`*args`); that parameter
    is the last of `parameters`. `sql_names`: the names it is declared under in Snowflake. `max_batch_rows`:
    the most rows that Snowflake sends in a request, None where that is left to Snowflake. `rows_per_call`:
    the most rows of one call of a vectorized function, None for all of the chunk.
    """

    name: str
    parameters: tuple[Parameter, ...]
    variadic: bool
    returns: str
    vectorized: bool = False
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    max_batch_rows: int | None = None
    rows_per_call: int | None = None
    concurrency: int = 1
    on_error: OnError = "fail"
    diagnostic: bool = False
    sql_names: tuple[str, ...] = ()
    deduplicate: bool = False
    doc: str = ""

    def calls_for(self, rows: int) -> int:
        """How many calls of the function this many rows need."""
        return rows if not self.vectorized else -(-rows // (self.rows_per_call or self.chunk_rows))

    def accepts(self, count: int) -> bool:
        """Whether a row may carry `count` arguments."""
        return count >= len(self.parameters) - 1 if self.variadic else count == len(self.parameters)

    def __str__(self) -> str:
        """As SQL declares it: `sentiment(text VARCHAR) -> VARIANT`."""
        arguments = [f"{p.name} {SNOWFLAKE_TYPES[p.type]}" for p in self.parameters]
        if self.variadic:
            arguments[-1] += " ..."
        return f"{self.name}({', '.join(arguments)}) -> {SNOWFLAKE_TYPES[self.returns]}"


@dataclass(frozen=True)
class Workflow:
    """A state machine that SQL can start. `schema`: the JSON Schema of a run's input.

    `run_id`: the property of the input by which a run finds the checkpoints of an earlier one.
    """

    name: str
    doc: str
    schema: dict[str, Any]
    run_id: str


def read_workflows(folder: Path = LAMBDAS_DIR) -> dict[str, Workflow]:
    """All workflows, by name, sorted: a folder with an input.json, the JSON Schema of its input.

    Raises CatalogError.
    """
    workflows = (_read_workflow(path) for path in sorted(folder.glob("*/input.json")))
    return {workflow.name: workflow for workflow in workflows}


def read_catalog(folder: Path = FUNCTIONS_DIR, *, diagnostics: bool | None = None) -> dict[str, Signature]:
    """All remote functions of `folder`, by name, sorted.

    `diagnostics`: whether to include the diagnostic ones (`echo`, ...); by default, the environment variable
    DIAGNOSTICS says so. Raises CatalogError.
    """
    if diagnostics is None:
        diagnostics = os.environ.get("DIAGNOSTICS") == "true"
    signatures = (_read_signature(path, path.stat().st_mtime_ns) for path in sorted(folder.glob("[!_]*.py")))
    return {signature.name: signature for signature in signatures if diagnostics or not signature.diagnostic}


def _read_workflow(path: Path) -> Workflow:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CatalogError(f"{path}:{error.lineno}: this is not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: this is not UTF-8: {error.reason}") from None
    if not isinstance(schema, dict):
        raise CatalogError(f"{path}:1: a JSON Schema of a workflow's input must be a JSON object")
    name = path.parent.name
    return Workflow(name, schema.get("description", ""), schema, schema.get("x-run-id", "run_id"))


def read_service(name: str, folder: Path = LAMBDAS_DIR / "services") -> CallOptions:
    """What @service says in services/{name}.py; without it, nothing is limited or reused.

    Raises CatalogError.
    """
    path = folder / f"{name}.py"
    return _read_service(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read_service(path: Path, _changed: int) -> CallOptions:
    found = _decorated(path, "service")
    if not found:
        return CallOptions()
    if len(found) != 1 or found[0][0].name != path.stem:
        raise CatalogError(f"{path}: @service belongs to the function {path.stem}, and to no other")
    return CallOptions(**_options(path, found[0][1], "service", SERVICE_OPTIONS))


@lru_cache(maxsize=256)
def _read_signature(path: Path, _changed: int) -> Signature:
    function, decorator = _find_function(path)
    options = _options(path, decorator, "remote_function", FUNCTION_OPTIONS)
    vectorized = bool(options.get("vectorized", False))
    arguments = _arguments(path, function, vectorized)
    return Signature(
        name=path.stem,
        parameters=tuple(Parameter(a.arg, _hint(path, a.annotation, a, vectorized)) for a in arguments),
        variadic=function.args.vararg is not None,
        returns=_hint(path, function.returns, function, vectorized),
        doc=(ast.get_docstring(function) or "").split("\n\n")[0].replace("\n", " "),
        **{"sql_names": (path.stem,), **options},
    )


def _find_function(path: Path) -> tuple[ast.FunctionDef, ast.expr]:
    """The one remote function of a file, and its decorator."""
    functions = _decorated(path, "remote_function")
    if len(functions) != 1 or functions[0][0].name != path.stem:
        raise CatalogError(
            f"{path}: expected exactly one function decorated with @remote_function, named {path.stem!r} "
            f"like its file; found {[node.name for node, _ in functions] or 'none'}"
        )
    return functions[0]


def _decorated(path: Path, name: str) -> list[tuple[ast.FunctionDef, ast.expr]]:
    """The functions of a file with this decorator, each with it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise CatalogError(f"{path}:{error.lineno}: this is not Python: {error.msg}") from error
    return [
        (node, decorator)
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if _decorator_name(decorator) == name
    ]


def _arguments(path: Path, function: ast.FunctionDef, vectorized: bool) -> list[ast.arg]:
    """The function's arguments, `*args` last."""
    arguments = function.args
    if arguments.kwonlyargs or arguments.kwarg or arguments.defaults:
        raise CatalogError(
            f"{path}:{function.lineno}: SQL passes arguments by position and all of them: "
            "no keyword arguments, no defaults"
        )
    plain = [*arguments.posonlyargs, *arguments.args]
    all_arguments = [*plain, arguments.vararg] if arguments.vararg else plain
    if vectorized and not all_arguments:
        raise CatalogError(
            f"{path}:{function.lineno}: a vectorized function needs a parameter, whose values count the rows"
        )
    return all_arguments


def _problem(options: dict[str, Any], decorator: str, types: dict[str, type]) -> str | None:
    """What is wrong with the decorator's arguments, or None."""
    for name, value in options.items():
        if name not in types:
            return f"@{decorator} has no argument {name}; it has {', '.join(types)}"
        if type(value) is not types[name]:
            return f"{name} must be a literal of type {types[name].__name__}"
    if low := [name for name in _COUNTS if options.get(name, 1) < 1]:
        return f"{', '.join(low)} must be at least 1"
    return _call_problem(options) or _row_problem(options)


def _call_problem(options: dict[str, Any]) -> str | None:
    for name, form, example in (("rate_limit", RATE, "10/second"), ("reuse", PERIOD, "7 days")):
        value = str(options.get(name, NONE))
        if value != NONE and not VARIABLE.fullmatch(value) and not _is_positive(form, value):
            return (
                f'{name} is {value!r}; it must be like "{example}", "{NONE}", or "${{NAME}}" for a variable'
                " of the environment"
            )
    if "calls" in options and not LIMIT_NAME.fullmatch(options["calls"]):
        return "calls must be a name of at most 64 letters, digits, - and _"
    if "calls" in options and "rate_limit" not in options and "max_concurrency" not in options:
        return "calls names a limit: rate_limit or max_concurrency must say which"
    if "version" in options and "reuse" not in options:
        return "version is of results that are kept: reuse must say how long"
    return None


def _is_positive(form: re.Pattern[str], value: str) -> bool:
    found = form.fullmatch(value)
    return found is not None and float(found[1]) > 0


def _row_problem(options: dict[str, Any]) -> str | None:
    if (policy := options.get("on_error", "fail")) not in get_args(OnError):
        return f"on_error is {policy!r}; it must be one of {', '.join(get_args(OnError))}"
    if "rows_per_call" in options and not options.get("vectorized"):
        return "rows_per_call is for vectorized functions: the others get one row in each call"
    if options.get("vectorized") and options.get("concurrency", 1) > 1 and "rows_per_call" not in options:
        return "a vectorized function gets all rows in one call: concurrency needs rows_per_call"
    names = options.get("sql_names", ("_",))
    if not names or not all(isinstance(name, str) and SQL_NAME.fullmatch(name) for name in names):
        return "sql_names must be names that need no quotes in SQL: letters, digits and _"
    return None


def _decorator_name(decorator: ast.expr) -> str:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(target).rpartition(".")[2]


def _options(path: Path, decorator: ast.expr, name: str, types: dict[str, type]) -> dict[str, Any]:
    """The decorator's arguments, checked."""
    if not isinstance(decorator, ast.Call):
        return {}
    options = {}
    for keyword in decorator.keywords:
        try:
            options[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            raise CatalogError(
                f"{path}:{keyword.value.lineno}: @{name}({keyword.arg}=...) must be a literal: "
                "it is read without running the file"
            ) from None
    if problem := _problem(options, name, types):
        raise CatalogError(f"{path}:{decorator.lineno}: {problem}")
    return options


def _hint(path: Path, annotation: ast.expr | None, node: ast.arg | ast.FunctionDef, vectorized: bool) -> str:
    where = f"{path}:{node.lineno}: {node.arg if isinstance(node, ast.arg) else 'return'}"
    if vectorized:
        if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "list"):
            raise CatalogError(
                f"{where}: a vectorized function takes and returns lists: list[str], list[Any], ..."
            )
        annotation = annotation.slice
    # `str | None` is `str`: every SQL value may be null. `dict[str, Any]` is `dict`.
    if isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None":
        annotation = annotation.left
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    name = ast.unparse(annotation).rsplit(".", 1)[-1] if annotation else "nothing"
    if name not in SNOWFLAKE_TYPES:
        raise CatalogError(
            f"{where}: the type hint is {name}; it must be one of {', '.join(SNOWFLAKE_TYPES)}"
        )
    return name
