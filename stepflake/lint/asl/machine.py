"""One level of states after the other: how its states are linked, and which variables each of them sees."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stepflake.lint.asl import schema
from stepflake.lint.asl.fields import lint_fields
from stepflake.lint.asl.states import is_distributed, lint_state
from stepflake.lint.finding import Finding, below, did_you_mean
from stepflake.lint.values import mapping, objects

States = Mapping[str, Mapping[str, Any]]

_TERMINAL_TYPES = ("Succeed", "Fail")
_LINKED_TYPES = ("Task", "Pass", "Wait", "Map", "Parallel")


@dataclass(frozen=True)
class Level:
    """The machine itself, the ItemProcessor of a Map, or a branch of a Parallel.

    `fields`: the schema of its fields. `inherited`: the variables that may be set when it starts.
    `enclosing`: the names that are assigned on the levels around it.
    """

    document: Mapping[str, Any]
    where: str
    fields: schema.Schema
    inherited: frozenset[str] = frozenset()
    enclosing: frozenset[str] = frozenset()

    @property
    def start(self) -> Any:
        return self.document.get("StartAt")

    @cached_property
    def states(self) -> States:
        states = mapping(self.document.get("States"))
        return {name: state for name, state in states.items() if isinstance(state, Mapping)}

    def at(self, state: str) -> str:
        """The path of one of its states."""
        return below(self.where, f"States.{state}")


def lint_level(level: Level) -> Iterator[Finding]:
    """Check a level of states and those inside of it."""
    yield from lint_fields(level.document, level.where, level.fields)
    if not isinstance(level.document.get("States"), Mapping):
        return
    yield from _targets(level)
    yield from _ends(level)
    yield from _reachability(level)
    own = frozenset(name for state in level.states.values() for _, assign in _steps(state) for name in assign)
    for name in sorted(own & level.enclosing):
        yield Finding(
            level.where,
            f"${name} is assigned here and outside too, which Step Functions refuses",
            "give the inner variable a name of its own",
        )
    available = _variables(level)
    for name, state in level.states.items():
        where = level.at(name)
        variables = available.get(name, own | level.inherited)
        if len(name) > schema.MAX_NAME:
            yield Finding(where, f"the name has {len(name)} characters", f"take at most {schema.MAX_NAME}")
        yield from lint_state(state, where, variables)
        for inner in _inner_levels(state, where, variables, own | level.enclosing):
            yield from lint_level(inner)


def all_states(machine: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    """Name and path of every state, those inside of Map and Parallel included."""
    for name, state in mapping(machine.get("States")).items():
        here = below(where, f"States.{name}")
        yield name, here
        yield from all_states(mapping(mapping(state).get("ItemProcessor")), f"{here}.ItemProcessor")
        for i, branch in enumerate(objects(mapping(state).get("Branches"))):
            yield from all_states(branch, f"{here}.Branches[{i}]")


def _inner_levels(
    state: Mapping[str, Any], where: str, variables: frozenset[str], enclosing: frozenset[str]
) -> Iterator[Level]:
    if state.get("Type") == "Map" and isinstance(state.get("ItemProcessor"), Mapping):
        if is_distributed(state):
            variables = enclosing = frozenset()
        yield Level(
            state["ItemProcessor"], f"{where}.ItemProcessor", schema.ITEM_PROCESSOR, variables, enclosing
        )
    elif state.get("Type") == "Parallel":
        for i, branch in enumerate(objects(state.get("Branches"))):
            yield Level(branch, f"{where}.Branches[{i}]", schema.BRANCH, variables, enclosing)


def _steps(state: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Each way out of a state: the next state's name (None at an end) and what is assigned on the way."""
    if state.get("Type") == "Choice":
        for rule in objects(state.get("Choices")):
            yield rule.get("Next"), mapping(rule.get("Assign"))
        if "Default" in state:
            yield state["Default"], mapping(state.get("Assign"))
        return
    yield state.get("Next"), mapping(state.get("Assign"))
    for catcher in objects(state.get("Catch")):
        yield catcher.get("Next"), mapping(catcher.get("Assign"))


def _targets(level: Level) -> Iterator[Finding]:
    """Every name of a next state must be one of this level."""
    targets = [(below(level.where, "StartAt"), level.start)]
    for name, state in level.states.items():
        here = level.at(name)
        targets += [(f"{here}.{field}", state[field]) for field in ("Next", "Default") if field in state]
        for field in ("Choices", "Catch"):
            targets += [
                (f"{here}.{field}[{i}].Next", item.get("Next"))
                for i, item in enumerate(objects(state.get(field)))
            ]
    for where, target in targets:
        if isinstance(target, str) and target not in level.states:
            hint = did_you_mean(target, level.states)
            yield Finding(where, f"there is no state {target!r} here", f"name one that is{hint}")


def _ends(level: Level) -> Iterator[Finding]:
    for name, state in level.states.items():
        if state.get("Type") in _LINKED_TYPES and ("Next" in state) == ("End" in state):
            problem = "has both Next and End" if "Next" in state else "has neither Next nor End"
            yield Finding(level.at(name), problem, 'say where it goes: "Next": "<state>" or "End": true')


def _reachability(level: Level) -> Iterator[Finding]:
    """Every state must be reached from StartAt, and an end from every state."""
    states = level.states
    forwards = {name: [target for target, _ in _steps(state)] for name, state in states.items()}
    backwards: dict[Any, list[Any]] = {}
    for name, targets in forwards.items():
        for target in targets:
            backwards.setdefault(target, []).append(name)
    ends = [n for n, s in states.items() if s.get("Type") in _TERMINAL_TYPES or s.get("End") is True]
    reached, ending = _closure([level.start], forwards), _closure(ends, backwards)
    for name in states:
        if name not in reached:
            yield Finding(level.at(name), "nothing leads to it", "let a state name it as Next, or remove it")
        elif name not in ending and any(target in states for target in forwards[name]):
            remedy = "let a state on the way have End, or a Fail"
            yield Finding(level.at(name), "no path leads from it to an end", remedy)


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


def _variables(level: Level) -> dict[str, frozenset[str]]:
    """For each state that can be reached: the variables that some path to it assigns."""
    states = level.states
    available: dict[str, frozenset[str]] = {}
    pending: list[tuple[Any, frozenset[str]]] = [(level.start, level.inherited)]
    while pending:
        name, arriving = pending.pop()
        if name not in states or (name in available and arriving <= available[name]):
            continue
        available[name] = available.get(name, frozenset()) | arriving
        pending.extend((target, available[name] | assign.keys()) for target, assign in _steps(states[name]))
    return available
