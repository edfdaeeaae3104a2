"""What a Map runs over: its items, and the input and context of each."""

from collections.abc import Mapping
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.states.attempts import Flow


class MapItems:
    """The items of one Map. `concurrency`: its MaxConcurrency, 0 where it has none."""

    def __init__(
        self, flow: Flow, state: Mapping[str, Any], value: Any, effective: Any, items: list[Any]
    ) -> None:
        self.processor: Mapping[str, Any] = state.get("ItemProcessor") or state["Iterator"]
        self.is_distributed = self.processor.get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED"
        self._items = items
        self._flow = flow
        self._value = value
        self._effective = effective
        self._selector = state.get("ItemSelector") or state.get("Parameters")
        self._is_jsonata = stepfunctions._state_query_language(state, flow.context) == "JSONata"
        self.concurrency = int(self.number(state, "MaxConcurrency"))

    def __len__(self) -> int:
        return len(self._items)

    def context(self, number: int) -> dict[str, Any]:
        """What the expressions of an item see."""
        item = {"Index": number, "Value": self._items[number]}
        return {**self._flow.context, "Map": {"Item": item}}

    def input(self, number: int) -> Any:
        """The input of an item's first state. Raises the engine's _ExecutionError."""
        if not self._selector:
            return self._items[number]
        if self._is_jsonata:
            return stepfunctions._apply_jsonata_template(self._selector, self._value, self.context(number))
        return stepfunctions._resolve_params_obj(self._selector, self._effective, self.context(number))

    def number(self, state: Mapping[str, Any], field: str) -> float:
        """A field of the Map that is a number, an expression or a path; 0 where it is missing."""
        context = self._flow.context
        if f"{field}Path" in state:
            value = stepfunctions._resolve_path_or_ctx(state[f"{field}Path"], self._effective, context)
        elif field in state and self._is_jsonata:
            value = stepfunctions._jsonata_state_field(state, field, "number", self._value, context)
        else:
            value = state.get(field)
        return float(value or 0)


def read_items(flow: Flow, state: Mapping[str, Any], value: Any) -> MapItems:
    """The items of a Map with this input. Raises the engine's _ExecutionError."""
    context = flow.context
    # Parameters are an older name of ItemSelector here, so they do not change what ItemsPath sees.
    effective = stepfunctions._apply_input_path(state, value, context)
    if state.get("ItemReader"):
        items = stepfunctions._read_map_items(_evaluated_reader(state, value, context), effective, context)
    elif stepfunctions._state_query_language(state, context) == "JSONata":
        items = value
        if "Items" in state:
            items = stepfunctions._jsonata_state_field(state, "Items", "array", value, context)
    else:
        items = stepfunctions._resolve_path_or_ctx(state.get("ItemsPath", "$"), effective, context)
    return MapItems(flow, state, value, effective, items if isinstance(items, list) else [items])


def _evaluated_reader(state: Mapping[str, Any], value: Any, context: Mapping[str, Any]) -> Any:
    if stepfunctions._state_query_language(state, context) == "JSONata":
        return stepfunctions._apply_jsonata_template(state["ItemReader"], value, context)
    return state["ItemReader"]
