"""Locks the content of an object that landed, for this run."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.errors import reraise_transient
from core.settings import settings
from core.stored import read_stored
from ingest.landed_objects import Content, ObjectError, find_object
from ingest.locks import Lock, acquire

logger = Logger()


class Event(TypedDict):
    """What the ingest machine sends. `input`: the run's, which has the form of S3's `detail.object`."""

    input: dict[str, Any]
    owner: str
    run_id: str


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Takes the lock on the object's current content, unless another run holds it or has completed it.

    Returns {"outcome": "locked", "object": ...}, or the run's output where there is nothing to do for it:
    `outcome` is gone, held or skipped, and `message` says more. Raises ObjectError.
    """
    logger.append_keys(execution=event["owner"], run_id=event["run_id"])
    document = event["input"]
    key = document.get("key")
    if not key:
        raise ObjectError('the input has no "key", which names the object: {"key": "ingest/..."}')
    landed = find_object(key, document.get("etag"), document.get("version-id"))
    if landed is None:
        answer = describe_gone(key)
    else:
        content = read_stored(Content, landed["content"])
        lock = acquire(content, event["owner"], event["run_id"])
        is_locked = lock.owner == event["owner"] and lock.result is None
        answer = {"outcome": "locked", "object": landed} if is_locked else describe(lock, content)
    logger.info("lock", extra={"outcome": answer["outcome"]})
    return answer


def describe_gone(key: str) -> dict[str, Any]:
    """The output of a run that came too late for its object."""
    where = f"s3://{settings().bucket}/{key}"
    message = f"{where} was deleted or replaced before it was read; what replaced it has a run of its own"
    return {"outcome": "gone", "key": key, "message": message}


def describe(lock: Lock, content: Content) -> dict[str, Any]:
    """The output of a run whose content another run has locked or ingested."""
    if lock.result is not None:
        message = f"this content was ingested before, by run {lock.owner}"
        return {**lock.result, "outcome": "skipped", "message": message}
    message = (
        f"run {lock.owner} is ingesting this content; if it has died, resume it, "
        f"or start again after its lease has ended at {lock.lease_end}"
    )
    return {"outcome": "held", "key": content.key, "etag": content.etag, "message": message}
