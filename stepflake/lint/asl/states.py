"""One state: its fields by its type, and what the local engine does not do with them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stepflake.lint.asl import schema
from stepflake.lint.asl.expressions import lint_expressions
from stepflake.lint.asl.fields import lint_fields
from stepflake.lint.asl.retries import lint_catch, lint_retry, lint_task_retry
from stepflake.lint.finding import Finding, did_you_mean
from stepflake.lint.values import mapping, objects

State = Mapping[str, Any]

# Fields that the local engine (MiniStack 1.5.33) ignores without a word, and what to write instead.
_IGNORED_LOCALLY = {
    "Choice": {"Output": "give each rule its Output, or put a Pass behind Default"},
    "Map": {
        "ItemBatcher": "plan the chunks in a Lambda and map over them",
        "ResultWriter": "let each item write its own result",
    },
}


def lint_state(state: State, where: str, variables: frozenset[str]) -> Iterator[Finding]:
    """Check one state, without those inside of it. `variables`: those that some path to it assigns."""
    kind = state.get("Type")
    if not isinstance(kind, str) or kind not in schema.STATES:
        known = ", ".join(schema.STATES)
        hint = did_you_mean(kind, schema.STATES)
        yield Finding(where, f"the Type {kind!r} does not exist", f"take one of {known}{hint}")
        return
    yield from lint_fields(state, where, schema.STATES[kind])
    for field, remedy in _IGNORED_LOCALLY.get(kind, {}).items():
        if field in state:
            yield Finding(f"{where}.{field}", f"the local engine ignores it on a {kind}", remedy)
    yield from lint_expressions(state, where, variables)
    yield from lint_retry(state, where)
    yield from lint_catch(state, where)
    if kind in _BY_TYPE:
        yield from _BY_TYPE[kind](state, where)


def is_distributed(map_state: State) -> bool:
    """Whether each item of a Map runs as an execution of its own, which does not see outer variables."""
    processor = mapping(map_state.get("ItemProcessor"))
    return mapping(processor.get("ProcessorConfig")).get("Mode") == "DISTRIBUTED"


def _task(state: State, where: str) -> Iterator[Finding]:
    heartbeat, timeout = state.get("HeartbeatSeconds"), state.get("TimeoutSeconds")
    if isinstance(heartbeat, int) and isinstance(timeout, int) and heartbeat >= timeout:
        yield Finding(f"{where}.HeartbeatSeconds", "is not below TimeoutSeconds", "make it smaller")
    yield from lint_task_retry(state, where)


def _wait(state: State, where: str) -> Iterator[Finding]:
    if ("Seconds" in state) == ("Timestamp" in state):
        yield Finding(
            where, "needs Seconds or Timestamp, and only one of them", "say how long, or until when"
        )


def _choice(state: State, where: str) -> Iterator[Finding]:
    for i, rule in enumerate(objects(state.get("Choices"))):
        yield from lint_fields(rule, f"{where}.Choices[{i}]", schema.CHOICE_RULE)


_BY_TYPE: dict[str, Callable[[State, str], Iterator[Finding]]] = {
    "Task": _task,
    "Wait": _wait,
    "Choice": _choice,
}
