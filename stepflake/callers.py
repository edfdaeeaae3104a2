"""What calls other services: the remote functions and services of this project that have a limit or reuse
results, as their decorators say it and as a deployed stack has it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from core.calls.rates import Limit
from core.calls.reuse import read_period
from core.catalog import LAMBDAS_DIR, NONE, VARIABLE, CallOptions, read_catalog, read_service
from core.settings import SettingError
from stepflake.errors import UserError
from stepflake.stack import Stack

T = TypeVar("T")

# Of the Lambda that runs each kind, whose environment has the values of "${NAME}".
_LAMBDAS = {"function": "ProcessFunction", "service": "ServiceFunction"}


@dataclass(frozen=True)
class Caller:
    """A remote function or a service, and what its file says about its calls."""

    kind: Literal["function", "service"]
    name: str
    options: CallOptions

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def file(self) -> str:
        """Where it is declared, in lambdas/."""
        return f"{self.kind}s/{self.name}.py"

    @property
    def limit_name(self) -> str:
        """By which it shares its limit with others."""
        return self.options.calls or self.name

    @property
    def has_limit(self) -> bool:
        """Whether it declares one; a variable's value may still be "none"."""
        return self.options.rate_limit != NONE or self.options.max_concurrency is not None

    @cached_property
    def limit(self) -> Limit | None:
        """Its limit, where no option is a variable. Raises UserError."""
        return self._read(lambda: Limit.of(self.options, self.name))

    @cached_property
    def reuse_seconds(self) -> int:
        """How long results are kept, where no option is a variable; 0 for not at all. Raises UserError."""
        return self._read(lambda: read_period(self.options.reuse))

    def variables(self) -> list[tuple[str, str]]:
        """The options that are a variable of the Lambda's environment, each with the variable's name."""
        options = {name: getattr(self.options, name) for name in ("rate_limit", "reuse", "version")}
        found = ((name, VARIABLE.fullmatch(value)) for name, value in options.items())
        return [(name, match[1]) for name, match in found if match]

    def _read(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except SettingError as error:
            raise UserError(f"lambdas/{self.file}: {error}") from None


def read_callers(lambdas: Path = LAMBDAS_DIR, *, diagnostics: bool = True) -> list[Caller]:
    """All remote functions and services. `diagnostics`: also echo and its like. Raises CatalogError."""
    functions = read_catalog(lambdas / "functions", diagnostics=diagnostics)
    folder = lambdas / "services"
    services = sorted(folder.glob("[!_]*.py"))
    return [
        *(Caller("function", name, signature) for name, signature in functions.items()),
        *(Caller("service", path.stem, read_service(path.stem, folder)) for path in services),
    ]


def deployed_callers(stack: Stack) -> list[Caller]:
    """Those of a stack, each variable with the value that it has there. Raises CatalogError, UserError."""
    environments: dict[str, Mapping[str, str]] = {}
    callers = []
    for caller in read_callers(diagnostics=stack.parameters.get("Diagnostics") == "true"):
        variables = caller.variables()
        if variables and caller.kind not in environments:
            environments[caller.kind] = stack.environment(_LAMBDAS[caller.kind])
        values: dict[str, Any] = {}
        for option, variable in variables:
            if variable not in environments[caller.kind]:
                raise UserError(
                    f"lambdas/{caller.file}: {option} is ${{{variable}}}, which the stack's Lambdas "
                    "don't have; set it in template.yaml, and deploy"
                )
            values[option] = environments[caller.kind][variable]
        callers.append(replace(caller, options=replace(caller.options, **values)) if values else caller)
    return callers
