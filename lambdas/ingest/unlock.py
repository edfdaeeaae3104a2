"""The end of a lock: the content is done for good, or anybody may try again."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger

from core.errors import named_for_retry
from ingest.landed_objects import Content, Object
from ingest.locks import complete, release

logger = Logger()


class Event(TypedDict):
    """What the ingest machine sends. `result`: what the work returned, None where it failed."""

    object: Object
    owner: str
    result: dict[str, Any] | None


def handler(event: Event, context: Any) -> dict[str, Any] | None:
    """Records the result, or releases the lock where there is none. Raises LockLost where another has it.

    A lock that is to be released and is another's by now is left alone.
    """
    logger.append_keys(owner=event["owner"])
    content, result = Content(**event["object"]["content"]), event["result"]
    with named_for_retry():
        if result is None or result["outcome"] == "gone":
            logger.info("release", extra={"released": release(content, event["owner"])})
        else:
            complete(content, event["owner"], result)
            logger.info("complete")
    return result
