"""The first step of the pipeline: issues a request id, stores the document and plans the services."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core import inputs
from core.catalog import read_workflows
from core.errors import reraise_transient
from core.settings import setting
from pipeline.requests import Request, RequestError, describe_output, load_request, store_document

logger = Logger()


class Event(TypedDict):
    """What the pipeline machine sends: its execution's name and input."""

    execution: str
    input: Any


class ServicePlan(TypedDict):
    """The machine's next input. `services`: all, in order. `first`: the index of the one to start at.

    `finished`: those with a checkpoint. `output`: what `describe_output` returns before any service runs.
    """

    request_id: str
    services: list[str]
    first: int
    skip: list[str]
    finished: list[str]
    output: dict[str, Any]


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> ServicePlan:
    """Stores the document and returns the plan. Raises RequestError, which names the path in the input."""
    return preprocess(event["execution"], event["input"], pipeline_services())


def pipeline_services() -> list[str]:
    """The services of the pipeline in the order in which they run; the template says which."""
    return setting("PIPELINE_SERVICES").split(",")


def preprocess(execution: str, document: Any, services: list[str]) -> ServicePlan:
    """The plan for a run's input."""
    try:
        inputs.validate(read_workflows()["pipeline"], document)
    except inputs.InputError as error:
        raise RequestError(str(error)) from None
    skip = document.get("skip", [])
    for index, name in enumerate(skip):
        check_service(f"$.skip[{index}]", name, services)
    start_at = document.get("start_at", services[0])
    check_service("$.start_at", start_at, services)

    # The execution's name, and not a random id: a retry of this step must find the same request.
    request_id = document.get("request_id", execution)
    logger.append_keys(execution=execution, run_id=request_id)
    if "document" in document:
        store_document(request_id, document["document"])
    request = load_request(request_id, services)

    first = services.index(start_at)
    check_request(request, first, skip)
    return ServicePlan(
        request_id=request_id,
        services=services,
        first=first,
        skip=skip,
        finished=list(request.results),
        output=describe_output(request),
    )


def check_service(path: str, name: str, services: list[str]) -> None:
    """Raises RequestError where the pipeline has no such service."""
    if name not in services:
        raise RequestError(
            f"at {path}: the pipeline has no service {name!r}; it runs {', '.join(services)}, in this order"
        )


def check_request(request: Request, first: int, skip: list[str]) -> None:
    """Raises RequestError where what comes before `first` is missing, or a service would hide a property."""
    services = request.services
    known = {*request.results, *request.document, *skip}
    missing = [name for name in services[:first] if name not in known]
    if missing:
        raise RequestError(
            f"at $.start_at: {services[first]!r} comes after {', '.join(missing)}, which request "
            f"{request.request_id!r} has no result of; start at {missing[0]!r}, or list in skip what it can "
            "do without"
        )
    for name in services[first:]:
        if name in request.document and name not in skip:
            raise RequestError(
                f"at $.document.{name}: this is where the service {name} puts its result; "
                "rename the property, or list the service in skip to keep the property"
            )
