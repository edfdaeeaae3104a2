"""A request of the pipeline: its document, and the result of each service, kept as checkpoints.

Each service sees the document with the results of the services before it, each under its service's name:
{"text": ..., "language": {...}, "sentiment": {...}}.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.checkpoints import load_checkpoint, save_checkpoint
from core.clients import s3
from core.errors import TaskError
from core.exact_json import Json, dump_json, parse_json
from core.settings import settings

# No service can have this name: a service's name has no hyphen.
DOCUMENT_STEP = "input-document"

# An execution's output has at most 256 KiB; this leaves room for the steps and for escapes in the JSON.
MAX_OUTPUT_BYTES = 128 * 1024

Document = dict[str, Any]


class RequestError(TaskError):
    """The run's input is not what the pipeline takes; the message names the path in it and the remedy."""


@dataclass(frozen=True)
class Request:
    """`services`: of the pipeline, in order. `results`: by service, of those that finished."""

    request_id: str
    services: Sequence[str]
    document: Document
    results: Mapping[str, Json]

    def input_for(self, service: str) -> Document:
        """The document as a service sees it: with the results of those before it."""
        return self._with_results(self.services[: self.services.index(service)])

    def with_results(self) -> Document:
        """The document with all results."""
        return self._with_results(self.services)

    def _with_results(self, services: Sequence[str]) -> Document:
        return self.document | {name: self.results[name] for name in services if name in self.results}


def run_id(request_id: str) -> str:
    """The run id of the checkpoints, with a prefix so that no other workflow's run has the same steps."""
    return f"pipeline.{request_id}"


def store_document(request_id: str, document: Document) -> None:
    """Stores a request's document, once. Raises RequestError where the request has another one."""
    given = parse_json(dump_json(document))
    if save_checkpoint(run_id(request_id), DOCUMENT_STEP, given) != given:
        raise RequestError(
            f"at $.document: request {request_id!r} has another document; a request id names one document: "
            "leave the document out to continue with that one, or the request id for a new request"
        )


def load_request(request_id: str, services: Sequence[str]) -> Request:
    """The request with the results of the services that finished. Raises RequestError without a document."""
    run = run_id(request_id)
    is_stored, document = load_checkpoint(run, DOCUMENT_STEP)
    if not is_stored:
        raise RequestError(f"at $.request_id: there is no request {request_id!r}; send its document with it")
    checkpoints = {name: load_checkpoint(run, name) for name in services}
    results = {name: value for name, (finished, value) in checkpoints.items() if finished}
    return Request(request_id, services, document, results)


def describe_output(request: Request) -> dict[str, Any]:
    """What the run returns of the request so far: {"document": ...}, or {"key": ...} if that is large.

    The key is that of an object in the bucket, with the same JSON.
    """
    document = request.with_results()
    body = dump_json(document).encode("utf-8")
    if len(body) <= MAX_OUTPUT_BYTES:
        return {"document": document}
    key = f"runs/{run_id(request.request_id)}/output/{hashlib.sha256(body).hexdigest()}.json"
    s3().put_object(Bucket=settings().bucket, Key=key, Body=body, ContentType="application/json")
    return {"key": key}
