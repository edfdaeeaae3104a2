"""Runs the rows of a locked object through the remote function that its key names."""

from typing import NotRequired, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core import deadline
from core.errors import reraise_transient
from core.stored import read_stored
from ingest.ingestion import IngestResult, ingest
from ingest.landed_objects import Content, LandedObject
from ingest.locks import renew

logger = Logger()


class Event(TypedDict):
    """What the ingest machine sends. `run_id`: left out by executions that version 0.1 started."""

    object: LandedObject
    owner: str
    run_id: NotRequired[str]


class Progress(TypedDict):
    """Where `finished` is False, too little time was left for another chunk, and the machine calls again."""

    finished: bool
    result: IngestResult | None


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Progress:
    """Renews the lease, and works while this Lambda has time. Raises LockLost, and what `ingest` raises."""
    deadline.begin(context)
    logger.append_keys(execution=event["owner"], run_id=event.get("run_id", event["owner"]))
    renew(read_stored(Content, event["object"]["content"]), event["owner"])
    result = ingest(event["object"], lambda: context.get_remaining_time_in_millis() / 1000)
    if result:
        logger.info(result["outcome"], extra={"function": result["function"], "rows": result["rows"]})
    return Progress(finished=result is not None, result=result)
