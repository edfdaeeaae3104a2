"""Completes the lock of a content that is done, or releases the lock of one that failed."""

from typing import Any, NotRequired, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.errors import reraise_transient
from core.stored import read_stored
from ingest.landed_objects import Content, LandedObject
from ingest.locks import complete, release

logger = Logger()


class Event(TypedDict):
    """What the ingest machine sends. `result`: what the work returned, None where it failed.

    `run_id`: left out by executions that version 0.1 started.
    """

    object: LandedObject
    owner: str
    run_id: NotRequired[str]
    result: dict[str, Any] | None


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> dict[str, Any] | None:
    """Records the result, or releases the lock where there is none. Raises LockLost where another has it.

    A lock that another run has taken since is not released.
    """
    logger.append_keys(execution=event["owner"], run_id=event.get("run_id", event["owner"]))
    content, result = read_stored(Content, event["object"]["content"]), event["result"]
    if result is None or result["outcome"] == "gone":
        logger.info("release", extra={"released": release(content, event["owner"])})
    else:
        complete(content, event["owner"], result)
        logger.info("complete")
    return result
