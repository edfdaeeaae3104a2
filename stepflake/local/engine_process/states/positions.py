"""Where an execution stands: what a redrive needs to continue at the state that did not succeed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Position:
    """Of one flow of states: an execution's own, an iteration's or a branch's.

    `state`: the one that it is in or, where it `is_entered` not yet, the next one; "" before the first.
    `input`, `variables`: those that the state is entered with. `parts`: of the Map or Parallel that it is in,
    none before they begin. `result`: where it `is_done`. `map_run`: the ARN of a distributed Map's run.
    `execution`: the ARN of the child that runs this part of such a Map. `event`: the id of the newest event.
    """

    state: str = ""
    is_entered: bool = False
    input: Any = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    parts: "list[Position]" = field(default_factory=list)
    is_done: bool = False
    result: Any = None
    map_run: str = ""
    execution: str = ""
    event: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON: the engine writes executions to its state directory when it stops."""
        return {**vars(self), "parts": [part.to_json() for part in self.parts]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**{**document, "parts": [cls.from_json(part) for part in document["parts"]]})
