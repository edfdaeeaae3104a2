"""Where an execution stands: what a redrive needs to continue at the state that did not succeed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

    def copy(self) -> Self:
        """This position as it is now; inputs, variables and results are never changed."""
        return replace(self, parts=[part.copy() for part in self.parts])
