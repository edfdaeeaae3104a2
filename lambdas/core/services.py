"""Services: the steps of the pipeline, and what the fan-out's workers run on single items.

A service is one Python function over one JSON document, in a file of its own name:
services/{name}.py holds `def {name}(document: dict[str, Any]) -> Any`. What it returns must be JSON.
@service says which limits its calls have, and whether results are reused.
The name has only letters and digits, as it becomes part of the logical ids in template.yaml.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.calls.documents import answer_document
from core.catalog import read_service
from core.errors import TaskError, ThrottleError, TransientError, is_throttle, is_transient
from core.exact_json import Json, dump_json, parse_json

SERVICES_DIR = Path(__file__).parent.parent / "services"

Service = Callable[[dict[str, Any]], Any]


class UnknownService(TaskError):
    """No service of that name; the message lists what there is."""


class ServiceError(TaskError):
    """The service raised, or returned what JSON cannot carry; the message names it and the reason."""


def service_names() -> list[str]:
    """The names of all services in `services/`, sorted; no file is imported."""
    return sorted(path.stem for path in SERVICES_DIR.glob("[!_]*.py"))


def load_service(name: str) -> Service:
    """The function of services/{name}.py: only that file is imported. Raises UnknownService, ServiceError."""
    # The name may come from a run's input: only an existing file is ever imported.
    if name not in service_names():
        raise UnknownService(f"there is no service {name!r}; there are: {', '.join(service_names())}")
    service: Service | None = getattr(importlib.import_module(f"services.{name}"), name, None)
    if not callable(service):
        raise ServiceError(f"services/{name}.py has no function {name}(document)")
    return service


def run_service(name: str, document: dict[str, Any]) -> Json:
    """Runs a service on a document; numbers in the result are int or Decimal, as parse_json makes them.

    Waits for its limit, and reuses a kept result, as @service says. Raises UnknownService, ServiceError, and
    TransientError and RateLimited for what a retry may avoid.
    """
    service = load_service(name)
    options, path = read_service(name, SERVICES_DIR), SERVICES_DIR / f"{name}.py"
    return parse_json(answer_document(name, options, path, document, lambda: _call(name, service, document)))


def _call(name: str, service: Service, document: dict[str, Any]) -> str:
    """What the service returns, as JSON."""
    try:
        value = service(document)
    except Exception as error:
        if is_throttle(error):
            raise ThrottleError(f"{name}: {type(error).__name__}: {error}") from error
        if isinstance(error, TaskError):
            raise type(error)(f"{name}: {error}") from error
        message = f"{name}: {type(error).__name__}: {error}"
        raise (TransientError if is_transient(error) else ServiceError)(message) from error
    try:
        return dump_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ServiceError(f"{name}: what it returned is not JSON: {error}") from error
