"""The work on an object that is locked: its rows through the remote function that its key names."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger

from core.errors import named_for_retry
from ingest.ingestion import Result, ingest
from ingest.landed_objects import Content, Object
from ingest.locks import renew

logger = Logger()


class Event(TypedDict):
    """What the ingest machine sends."""

    object: Object
    owner: str


class Progress(TypedDict):
    """Where `finished` is False, time ran out between two chunks, and the machine calls again."""

    finished: bool
    result: Result | None


def handler(event: Event, context: Any) -> Progress:
    """Renews the lease and works for as long as this Lambda may. Raises LockLost, or why the work failed."""
    logger.append_keys(owner=event["owner"])
    with named_for_retry():
        renew(Content(**event["object"]["content"]), event["owner"])
        result = ingest(event["object"], lambda: context.get_remaining_time_in_millis() / 1000)
    if result:
        logger.info(result["outcome"], extra={"function": result["function"], "rows": result["rows"]})
    return Progress(finished=result is not None, result=result)
