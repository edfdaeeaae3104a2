"""Runs one service of the pipeline on one request."""

from dataclasses import replace
from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core import deadline
from core.checkpoints import run_step
from core.errors import reraise_transient
from core.services import run_service
from pipeline.requests import describe_output, load_request, run_id

logger = Logger()


class Event(TypedDict):
    """What the pipeline machine sends. `services`: all of the pipeline, in order."""

    request_id: str
    service: str
    services: list[str]


class Done(TypedDict):
    """The machine's next input. `output`: what `describe_output` returns, with the service's result."""

    service: str
    output: dict[str, Any]


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Done:
    """Runs the service, unless it has finished, and stores its result.

    Raises a TaskError, or CheckpointError.
    """
    deadline.begin(context)
    request_id, service, services = event["request_id"], event["service"], event["services"]
    logger.append_keys(run_id=request_id, pipeline_service=service)
    request = load_request(request_id, services)
    result = run_step(run_id(request_id), service, lambda: run_service(service, request.input_for(service)))
    logger.info("service finished")
    request = replace(request, results={**request.results, service: result})
    return Done(service=service, output=describe_output(request))
