"""One state machine definition: all its states, and what belongs to the whole of it."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepflake.lint.asl import schema
from stepflake.lint.asl.expressions import PLACEHOLDER
from stepflake.lint.asl.machine import Level, all_states, lint_level
from stepflake.lint.finding import Finding, did_you_mean

Definition = Mapping[str, Any]

# https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
MAX_DEFINITION_BYTES = 1_048_576


def lint_definition(definition: Definition) -> list[Finding]:
    """Check one definition (parsed JSON, `${Name}` placeholders still in place). Nothing found gives []."""
    machine = Level(definition, "", schema.MACHINE)
    found = [*lint_level(machine), *_names_used_twice(definition), *_size(definition)]
    return list(dict.fromkeys(found))


def count_states(definition: Definition) -> int:
    """How many states a definition has, those inside Map and Parallel included."""
    return sum(1 for _ in all_states(definition))


def lint_substitutions(definition: Definition, given: Collection[str]) -> list[Finding]:
    """Compare a definition's `${Name}` placeholders with the names that DefinitionSubstitutions gives it."""
    used = set(PLACEHOLDER.findall(json.dumps(definition)))
    return [
        Finding(
            "",
            f"${{{name}}} is not among the template's DefinitionSubstitutions",
            f"give it there{did_you_mean(name, given)}",
        )
        for name in sorted(used - set(given))
    ] + [
        Finding("", f"the template substitutes {name}, which the definition doesn't use", "remove it there")
        for name in sorted(set(given) - used)
    ]


def lint_definition_file(path: Path, given: Collection[str] | None) -> tuple[list[Finding], int]:
    """Check one file. `given`: the names that the template substitutes, None where no template deploys it.

    Returns the findings, each with the file's name, and the number of states. Raises OSError.
    """
    try:
        definition = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except _RepeatedKeyError as error:
        return [Finding("", f"the key {str(error)!r} stands twice in one object", "rename one", str(path))], 0
    except ValueError as error:
        return [Finding("", f"not JSON: {error}", "fix it there", str(path))], 0
    if not isinstance(definition, dict):
        return [Finding("", "not a JSON object", "write a state machine definition", str(path))], 0
    found = lint_definition(definition)
    if given is not None:
        found += lint_substitutions(definition, given)
    return [replace(finding, file=str(path)) for finding in found], count_states(definition)


def _names_used_twice(definition: Definition) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, where in all_states(definition):
        if name in seen:
            yield Finding(
                where, f"{seen[name]} has the same name", "a name may stand once in a whole machine"
            )
        seen.setdefault(name, where)


def _size(definition: Definition) -> Iterator[Finding]:
    size = len(json.dumps(definition, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_DEFINITION_BYTES:
        yield Finding(
            "",
            f"the definition has {size:,} bytes, and Step Functions takes {MAX_DEFINITION_BYTES:,}",
            "move a part into a machine of its own",
        )


class _RepeatedKeyError(ValueError):
    """A JSON object has one key twice, and JSON would keep only the last."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return keys
