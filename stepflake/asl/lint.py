"""`stepflake lint`: what is wrong in the state machine definitions, before a run finds it.

cfn-lint doesn't look behind DefinitionUri, AWS answers only after a deployment, and the local engine takes
invalid definitions and ignores some fields: without this, each would show up as a run that hangs or fails.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from core.catalog import CatalogError, read_catalog, read_workflows
from stepflake.asl import schema
from stepflake.asl.jsonata import ExpressionError, parse_expression

Definition = Mapping[str, Any]

PLACEHOLDER = re.compile(r"\$\{([A-Za-z0-9_]+)\}")
# https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
MAX_DEFINITION_BYTES = 1_048_576
# The errors that AWS asks to retry on every Lambda task:
# https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html
TRANSIENT_LAMBDA_ERRORS = (
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
)
# https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
_TERMINAL_ERROR = "States.DataLimitExceeded"
_TERMINAL_TYPES = ("Succeed", "Fail")
_LINKED_TYPES = ("Task", "Pass", "Wait", "Map", "Parallel")
_INTRINSIC = re.compile(r"^States\.\w+\(")
# Members of $states, by where an expression stands:
# https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html
_BEFORE = frozenset({"input", "context"})
_AFTER = _BEFORE | {"result"}
_CAUGHT = _BEFORE | {"errorOutput"}
_HAS_RESULT = ("Task", "Map", "Parallel")
# Fields that the local engine (MiniStack 1.5.33) passes over in silence, and what to write instead.
_IGNORED_LOCALLY = {
    "Succeed": {"Output": "end with a Pass that has the Output and End"},
    "Choice": {"Output": "give each rule its Output, or put a Pass behind Default"},
    "Parallel": {
        "Arguments": "build the branches' input in a Pass before it",
        "Output": "build it in a Pass behind it",
        "Assign": "assign in a Pass behind it",
    },
    "Map": {
        "ItemBatcher": "plan the chunks in a Lambda and map over them",
        "ResultWriter": "let each item write its own result",
    },
}
_IGNORED_BY_DISTRIBUTED_MAP = ("Items", "ItemSelector", "Output", "Assign")


@dataclass(frozen=True)
class Finding:
    """One thing to mend. `where` is the path inside the definition (`States.Process.Retry[0]`), empty for the
    whole; `file` is empty where a definition was checked that came from no file."""

    where: str
    problem: str
    remedy: str
    file: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.problem) if part) + f"; {self.remedy}"


def lint(definition: Definition) -> list[Finding]:
    """Check one definition (parsed JSON, `${Name}` placeholders still in place). Nothing found gives []."""
    found = list(_machine(definition, "", schema.MACHINE, frozenset(), frozenset()))
    found += _names_used_twice(definition)
    size = len(json.dumps(definition, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_DEFINITION_BYTES:
        found.append(
            Finding(
                "",
                f"the definition has {size:,} bytes, and Step Functions takes {MAX_DEFINITION_BYTES:,}",
                "move a part into a machine of its own",
            )
        )
    return list(dict.fromkeys(found))


def count_states(definition: Definition) -> int:
    """How many states a definition has, those inside Map and Parallel included."""
    return sum(1 for _ in _all_states(definition, ""))


def lint_substitutions(definition: Definition, given: Iterable[str]) -> list[Finding]:
    """Compare a definition's `${Name}` placeholders with the names that DefinitionSubstitutions gives it."""
    used = set(PLACEHOLDER.findall(json.dumps(definition)))
    names = set(given)
    return [
        Finding(
            "",
            f"${{{name}}} is not among the template's DefinitionSubstitutions",
            f"give it there{_meant(name, names)}",
        )
        for name in sorted(used - names)
    ] + [
        Finding("", f"the template substitutes {name}, which the definition doesn't use", "remove it there")
        for name in sorted(names - used)
    ]


# --- one level of states: the machine itself, a Map's processor, a Parallel's branch ---


def _machine(
    machine: Definition,
    where: str,
    fields: schema.Schema,
    inherited: frozenset[str],
    enclosing: frozenset[str],
) -> Iterator[Finding]:
    """`inherited`: variables that may be set when this level starts; `enclosing`: names assigned outside."""
    yield from _fields(machine, where, fields)
    states = machine.get("States")
    if not isinstance(states, Mapping):
        return
    states = {name: state for name, state in states.items() if isinstance(state, Mapping)}
    yield from _links(machine, states, where)
    own = frozenset(name for state in states.values() for _, assign in _steps(state) for name in assign)
    for name in sorted(own & enclosing):
        yield Finding(
            where,
            f"${name} is assigned here and outside too, which Step Functions refuses",
            "give the inner variable a name of its own",
        )
    available = _variables_at(machine, states, inherited)
    for name, state in states.items():
        here = _join(where, f"States.{name}")
        if len(name) > schema.MAX_NAME:
            yield Finding(here, f"the name has {len(name)} characters", f"take at most {schema.MAX_NAME}")
        yield from _state(state, here, available.get(name, own | inherited), own | enclosing)


def _steps(state: Definition) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Each way out of a state: the next state's name (None at an end) and what is assigned on the way."""
    if state.get("Type") == "Choice":
        for rule in _objects(state.get("Choices")):
            yield rule.get("Next"), _mapping(rule.get("Assign"))
        if "Default" in state:
            yield state["Default"], _mapping(state.get("Assign"))
        return
    yield state.get("Next"), _mapping(state.get("Assign"))
    for catcher in _objects(state.get("Catch")):
        yield catcher.get("Next"), _mapping(catcher.get("Assign"))


def _links(machine: Definition, states: Mapping[str, Definition], where: str) -> Iterator[Finding]:
    targets = [(_join(where, "StartAt"), machine.get("StartAt"))]
    for name, state in states.items():
        here = _join(where, f"States.{name}")
        targets += [(f"{here}.{field}", state[field]) for field in ("Next", "Default") if field in state]
        for field in ("Choices", "Catch"):
            targets += [
                (f"{here}.{field}[{i}].Next", item.get("Next"))
                for i, item in enumerate(_objects(state.get(field)))
            ]
    for here, target in targets:
        if isinstance(target, str) and target not in states:
            yield Finding(
                here, f"there is no state {target!r} here", f"name one that is{_meant(target, states)}"
            )

    reached = _closure([machine.get("StartAt")], {n: [t for t, _ in _steps(s)] for n, s in states.items()})
    backwards: dict[Any, list[Any]] = {}
    for name, state in states.items():
        for target, _ in _steps(state):
            backwards.setdefault(target, []).append(name)
    ends = [n for n, s in states.items() if s.get("Type") in _TERMINAL_TYPES or s.get("End") is True]
    ending = _closure(ends, backwards)
    for name, state in states.items():
        here = _join(where, f"States.{name}")
        if state.get("Type") in _LINKED_TYPES and ("Next" in state) == ("End" in state):
            problem = "has both Next and End" if "Next" in state else "has neither Next nor End"
            yield Finding(here, problem, 'say where it goes: "Next": "<state>" or "End": true')
        if name not in reached:
            yield Finding(here, "nothing leads to it", "let a state name it as Next, or remove it")
        elif name not in ending and any(target in states for target, _ in _steps(state)):
            yield Finding(
                here, "no path leads from it to an end", "let a state on the way have End, or a Fail"
            )


def _closure(start: Iterable[Any], edges: Mapping[Any, Iterable[Any]]) -> set[Any]:
    """What can be reached from `start` along `edges`, itself included."""
    reached: set[Any] = set()
    pending = list(start)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(edges.get(name, ()))
    return reached


def _variables_at(
    machine: Definition, states: Mapping[str, Definition], inherited: frozenset[str]
) -> dict[str, frozenset[str]]:
    """For each state that can be reached: the variables that some path to it assigns."""
    available: dict[str, frozenset[str]] = {}
    pending: list[tuple[Any, frozenset[str]]] = [(machine.get("StartAt"), inherited)]
    while pending:
        name, arriving = pending.pop()
        if name not in states or (name in available and arriving <= available[name]):
            continue
        available[name] = available.get(name, frozenset()) | arriving
        pending.extend((target, available[name] | assign.keys()) for target, assign in _steps(states[name]))
    return available


# --- one state ---


def _state(
    state: Definition, where: str, variables: frozenset[str], enclosing: frozenset[str]
) -> Iterator[Finding]:
    kind = state.get("Type")
    if kind not in schema.STATES:
        known = ", ".join(schema.STATES)
        yield Finding(
            where,
            f"the Type {kind!r} does not exist",
            f"take one of {known}{_meant(kind, schema.STATES)}",
        )
        return
    yield from _fields(state, where, schema.STATES[kind])
    for field, remedy in _IGNORED_LOCALLY.get(kind, {}).items():
        if field in state:
            yield Finding(f"{where}.{field}", f"the local engine ignores it on a {kind}", remedy)
    yield from _state_expressions(state, where, variables)
    yield from _errors(state, where)
    if kind == "Task":
        yield from _task(state, where)
    elif kind == "Wait" and ("Seconds" in state) == ("Timestamp" in state):
        yield Finding(
            where, "needs Seconds or Timestamp, and only one of them", "say how long, or until when"
        )
    elif kind == "Choice":
        for i, rule in enumerate(_objects(state.get("Choices"))):
            yield from _fields(rule, f"{where}.Choices[{i}]", schema.CHOICE_RULE)
    elif kind == "Map":
        yield from _map(state, where, variables, enclosing)
    elif kind == "Parallel":
        for i, branch in enumerate(_objects(state.get("Branches"))):
            yield from _machine(branch, f"{where}.Branches[{i}]", schema.BRANCH, variables, enclosing)


def _task(state: Definition, where: str) -> Iterator[Finding]:
    resource = state.get("Resource")
    resource = resource if isinstance(resource, str) else ""
    heartbeat, timeout = state.get("HeartbeatSeconds"), state.get("TimeoutSeconds")
    if isinstance(heartbeat, int) and isinstance(timeout, int) and heartbeat >= timeout:
        yield Finding(f"{where}.HeartbeatSeconds", "is not below TimeoutSeconds", "make it smaller")
    if not _objects(state.get("Retry")):
        yield Finding(where, "has no Retry", "retry the errors that may pass by themselves")
    elif _calls_lambda(resource):
        covered = _retried_errors(state)
        missing = [error for error in TRANSIENT_LAMBDA_ERRORS if error not in covered]
        if missing and not covered & {"States.ALL", "States.TaskFailed"}:
            yield Finding(
                f"{where}.Retry", f"doesn't cover {', '.join(missing)}", "add what Lambda may recover from"
            )
    if resource.endswith("lambda:invoke.waitForTaskToken"):
        yield Finding(
            f"{where}.Resource",
            "on the local engine the run hangs when this function raises",
            "send the task token through a queue",
        )


def _calls_lambda(resource: str) -> bool:
    """A placeholder alone stands for a function's ARN: service integrations are written out."""
    return ":lambda:" in resource or bool(PLACEHOLDER.fullmatch(resource))


def _retried_errors(state: Definition) -> set[str]:
    """Errors that are retried at least once: the first retrier that names an error decides."""
    decided: dict[str, bool] = {}
    for retrier in _objects(state.get("Retry")):
        for error in _strings(retrier.get("ErrorEquals")):
            decided.setdefault(error, retrier.get("MaxAttempts") != 0)
    return {error for error, retried in decided.items() if retried}


def _errors(state: Definition, where: str) -> Iterator[Finding]:
    for field, entry_schema in (("Retry", schema.RETRIER), ("Catch", schema.CATCHER)):
        entries = _objects(state.get(field))
        for i, entry in enumerate(entries):
            here = f"{where}.{field}[{i}]"
            yield from _fields(entry, here, entry_schema)
            errors = _strings(entry.get("ErrorEquals"))
            if "States.ALL" in errors and len(errors) > 1:
                yield Finding(f"{here}.ErrorEquals", "States.ALL stands beside others", "let it stand alone")
            if "States.ALL" in errors and i < len(entries) - 1:
                yield Finding(
                    f"{here}.ErrorEquals", "States.ALL hides the entries behind it", "move it to the end"
                )
            caught = {error for earlier in entries[:i] for error in _strings(earlier.get("ErrorEquals"))}
            if field == "Catch" and "States.ALL" in errors and _TERMINAL_ERROR not in caught:
                yield Finding(
                    f"{here}.ErrorEquals",
                    f"on AWS, States.ALL doesn't catch {_TERMINAL_ERROR} (more than 256 KiB of data)",
                    "put a catcher that names it before this one",
                )
            for error in errors:
                if error.startswith("States.") and error not in schema.ERROR_NAMES:
                    yield Finding(
                        f"{here}.ErrorEquals",
                        f"Step Functions has no error {error}",
                        f"take one it has{_meant(error, schema.ERROR_NAMES)}",
                    )
            if field == "Retry" and entry.get("MaxAttempts") != 0:
                for pace in schema.RETRIER_PACE:
                    if pace not in entry:
                        remedy = schema.RETRIER["properties"][pace]["description"]
                        yield Finding(here, f"{pace} is missing", remedy)


def _map(
    state: Definition, where: str, variables: frozenset[str], enclosing: frozenset[str]
) -> Iterator[Finding]:
    processor = state.get("ItemProcessor")
    if not isinstance(processor, Mapping):
        return
    distributed = _mapping(processor.get("ProcessorConfig")).get("Mode") == "DISTRIBUTED"
    if distributed:
        for field in _IGNORED_BY_DISTRIBUTED_MAP:
            if field in state:
                yield Finding(
                    f"{where}.{field}",
                    "the local engine evaluates no JSONata in a distributed Map",
                    "use an inline Map over parts, or child executions",
                )
        if isinstance(state.get("MaxConcurrency"), str):
            yield Finding(
                f"{where}.MaxConcurrency",
                "the local engine takes a number here in a distributed Map",
                "write a number",
            )
    # The items of a distributed Map run as executions of their own, which don't see the parent's variables.
    yield from _machine(
        processor,
        f"{where}.ItemProcessor",
        schema.ITEM_PROCESSOR,
        frozenset() if distributed else variables,
        frozenset() if distributed else enclosing,
    )


# --- fields and expressions ---


def _fields(value: Definition, where: str, schema: schema.Schema) -> Iterator[Finding]:
    for error in Draft202012Validator(schema).iter_errors(value):
        yield from _field_error(error, where)


def _field_error(error: ValidationError, where: str) -> Iterator[Finding]:
    instance: Any = error.instance
    required: Any = error.validator_value
    here = where
    for step in error.absolute_path:
        here = f"{here}[{step}]" if isinstance(step, int) else _join(here, step)
    properties = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties":
        for name in sorted(set(instance) - set(properties)):
            if name in schema.JSONPATH_FIELDS:
                yield Finding(here, f"{name} belongs to JSONPath", schema.JSONPATH_FIELDS[name])
            else:
                yield Finding(
                    here, f"there is no field {name!r} here", f"remove it{_meant(name, properties)}"
                )
    elif error.validator == "required":
        for name in required:
            if name not in instance:
                remedy = properties.get(name, {}).get("description", "add it")
                yield Finding(here, f"{name} is missing", remedy)
    else:
        remedy = error.schema.get("description") if isinstance(error.schema, Mapping) else None
        value = json.dumps(instance)
        shown = value if len(value) <= 60 else value[:57] + "..."  # noqa: PLR2004 - a line of a terminal
        yield Finding(here, f"{shown} can't stand here", remedy or error.message)


def _state_expressions(state: Definition, where: str, variables: frozenset[str]) -> Iterator[Finding]:
    """Every expression of a state, each with what it may refer to where it stands."""
    kind = state["Type"]
    after = _AFTER if kind in _HAS_RESULT else _BEFORE
    for field, value in state.items():
        here = f"{where}.{field}"
        if field in ("Output", "Assign"):
            yield from _template(value, here, variables, after)
        elif field in ("Choices", "Catch"):
            members = _CAUGHT if field == "Catch" else _BEFORE
            for i, entry in enumerate(_objects(value)):
                yield from _template(entry, f"{here}[{i}]", variables, members)
        elif field not in ("ItemProcessor", "Branches", "Comment"):
            yield from _template(value, here, variables, _BEFORE)


def _template(
    value: Any, where: str, variables: frozenset[str], members: frozenset[str]
) -> Iterator[Finding]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key.endswith(".$"):
                yield Finding(
                    f"{where}.{key}",
                    "a key that ends with .$ belongs to JSONPath",
                    "write key and expression",
                )
            if key != "Comment":
                yield from _template(item, f"{where}.{key}", variables, members)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _template(item, f"{where}[{i}]", variables, members)
    elif isinstance(value, str):
        if re.match(schema.EXPRESSION, value):
            yield from _expression(value[2:-2].strip(), where, variables, members)
        elif "{%" in value or "%}" in value:
            yield Finding(
                where,
                f"{value!r} is neither text nor an expression",
                "an expression starts with {% and ends with %}, with nothing around it",
            )
        elif value.startswith(("$.", "$$.")) or value == "$" or _INTRINSIC.match(value):
            yield Finding(
                where, f"{value!r} belongs to JSONPath, and here it is plain text", "write {% ... %}"
            )


def _expression(
    source: str, where: str, variables: frozenset[str], members: frozenset[str]
) -> Iterator[Finding]:
    try:
        # A placeholder may stand for a number as well as inside a string, and a digit fits both.
        expression = parse_expression(PLACEHOLDER.sub("1", source))
    except ExpressionError as error:
        yield Finding(where, f"bad JSONata: {error}", "mend the expression")
        return
    for name in sorted(expression.variables - variables):
        if name == "eval":
            yield Finding(where, "Step Functions leaves $eval out", "read JSON text with $parse")
        else:
            yield Finding(
                where,
                f"no path to here assigns ${name}",
                f"assign it in a state before this one{_meant(name, variables)}",
            )
    for name in sorted(expression.states_members - members):
        yield Finding(
            where,
            f"$states.{name} does not exist here",
            "there is " + ", ".join(f"$states.{m}" for m in sorted(members)),
        )
    for name in sorted(expression.bare_names):
        remedy = (
            f"write ${name}" if name in variables | {"states"} else f"write $states.input.{name} or ${name}"
        )
        yield Finding(where, f"{name!r} refers to nothing without a $", remedy)


# --- small things ---


def _names_used_twice(definition: Definition) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, where in _all_states(definition, ""):
        if name in seen:
            yield Finding(
                where, f"{seen[name]} has the same name", "a name may stand once in a whole machine"
            )
        seen.setdefault(name, where)


def _all_states(machine: Definition, where: str) -> Iterator[tuple[str, str]]:
    for name, state in _mapping(machine.get("States")).items():
        here = _join(where, f"States.{name}")
        yield name, here
        yield from _all_states(_mapping(_mapping(state).get("ItemProcessor")), f"{here}.ItemProcessor")
        for i, branch in enumerate(_objects(_mapping(state).get("Branches"))):
            yield from _all_states(branch, f"{here}.Branches[{i}]")


def _join(where: str, step: str) -> str:
    return f"{where}.{step}" if where else step


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _meant(name: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# --- files and the command ---


class _Twice(ValueError):
    """A JSON object names one key twice, and JSON keeps only the last."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return keys


def lint_file(path: Path, given: Iterable[str] | None) -> tuple[list[Finding], int]:
    """Check one file. `given`: the names that the template substitutes, None where none does.

    Returns the findings, each with the file's name, and the number of states. Raises OSError.
    """
    try:
        definition = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except _Twice as error:
        return [Finding("", f"the key {str(error)!r} stands twice in one object", "rename one", str(path))], 0
    except ValueError as error:
        return [Finding("", f"not JSON: {error}", "mend it there", str(path))], 0
    if not isinstance(definition, dict):
        return [Finding("", "not a JSON object", "write a state machine definition", str(path))], 0
    found = lint(definition)
    if given is not None:
        found += lint_substitutions(definition, given)
    return [replace(finding, file=str(path)) for finding in found], count_states(definition)


def template_substitutions(template: Path) -> dict[Path, list[str]]:
    """The definition files that a SAM template names, each with the names in its DefinitionSubstitutions.

    Raises OSError, and ValueError where the template is not YAML.
    """
    # SAM's own reader knows the tags (!Ref, !Sub, ...); its import takes half a second, so only here.
    from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

    try:
        resources = _mapping(_mapping(yaml_parse(template.read_text(encoding="utf-8"))).get("Resources"))
    except Exception as error:
        raise ValueError(f"{template} is not YAML: {error}") from error
    machines: dict[Path, list[str]] = {}
    for resource in resources.values():
        properties = _mapping(_mapping(resource).get("Properties"))
        uri = properties.get("DefinitionUri")
        if _mapping(resource).get("Type") == "AWS::Serverless::StateMachine" and isinstance(uri, str):
            machines[(template.parent / uri).resolve()] = list(
                _mapping(properties.get("DefinitionSubstitutions"))
            )
    return machines


@click.command(name="lint")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The SAM template that deploys the definitions.  [default: template.yaml]",
)
def lint_command(files: tuple[Path, ...], template: Path | None) -> None:
    """Check state machine definitions: links, timeouts, retries, JSONata, placeholders.

    FILES are definitions in Amazon States Language. Without them: statemachines/*.asl.json, all of which the
    template must deploy, and the declarations of lambdas/functions. Exits with 1 when something is found.
    """
    if template is None and Path("template.yaml").exists():
        template = Path("template.yaml")
    paths = list(files) or sorted(Path("statemachines").glob("*.asl.json"))
    if not paths:
        raise click.UsageError(
            "there is no statemachines/*.asl.json here; go to the project's root, or name the files"
        )
    try:
        deployed = template_substitutions(template) if template else {}
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    found: list[Finding] = []
    states = 0
    for path in paths:
        given = deployed.pop(path.resolve(), None)
        if template and not files and given is None:
            found.append(
                Finding("", f"{template} doesn't deploy it", "add it there as a DefinitionUri", str(path))
            )
        of_file, count = lint_file(path, given)
        found += of_file
        states += count
    if not files:
        found += _catalog(Path("lambdas"))
        found += [
            Finding(
                "",
                f"the DefinitionUri {path.name} is no file in statemachines/",
                "mend its name",
                str(template),
            )
            for path in deployed
        ]
    for finding in found:
        click.echo(str(finding))
    checked = f"{len(paths)} machine{'s' * (len(paths) != 1)} and {states} state{'s' * (states != 1)} checked"
    if found:
        raise click.ClickException(f"{checked}: {len(found)} to mend")
    click.echo(f"{checked}: nothing to mend")


def _catalog(lambdas: Path) -> Iterator[Finding]:
    """What SQL could not be told of: one broken declaration would fail every request."""
    try:
        read_catalog(lambdas / "functions", diagnostics=True)
        read_workflows(lambdas / "workflows")
    except (CatalogError, ValueError) as error:
        yield Finding("", str(error), "mend the declaration", str(lambdas))
