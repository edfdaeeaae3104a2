"""One service of the pipeline on one request."""

from dataclasses import replace
from typing import Any, TypedDict

from aws_lambda_powertools import Logger

from core.checkpoints import run_step
from core.errors import named_for_retry
from core.services import run_service
from pipeline.requests import describe_output, load_request, run_id

logger = Logger()


class Event(TypedDict):
    """What the pipeline machine sends. `services`: all of the pipeline, in order."""

    request_id: str
    service: str
    services: list[str]


class Done(TypedDict):
    """What the machine goes by. `output`: as `describe_output` says it, with the service's result."""

    service: str
    output: dict[str, Any]


def handler(event: Event, context: Any) -> Done:
    """Runs the service, unless it has finished, and stores its result.

    Raises a TaskError, or CheckpointError.
    """
    request_id, service, services = event["request_id"], event["service"], event["services"]
    logger.append_keys(request_id=request_id, pipeline_service=service)
    with named_for_retry():
        request = load_request(request_id, services)
        result = run_step(run_id(request_id), service, lambda: run_service(service, request.before(service)))
        logger.info("service finished")
        request = replace(request, results={**request.results, service: result})
        return Done(service=service, output=describe_output(request))
