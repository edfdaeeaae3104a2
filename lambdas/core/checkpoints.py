"""What each finished step of a run returned, so that a resumed run replays it and does not compute it again.

The record is in DynamoDB, the body in S3 at runs/{run id}/{step}/{sha256}.json. The body is written first and
under its own hash, the record last and once: a crash in between leaves no record, and if two workers finish
the same step, the first one's result is kept.
"""

import hashlib
import re
from collections.abc import Callable

from botocore.exceptions import ClientError

from core.clients import s3
from core.errors import TaskError, is_missing
from core.exact_json import Json, dump_json, parse_json
from core.patience import persist
from core.settings import settings
from core.table import get_item, put_if

RUN_ID = re.compile(r"[0-9A-Za-z_.-]{1,128}")


class CheckpointError(Exception):
    """A checkpoint that cannot be used: a bad run id, or a body that is gone or is not what was recorded."""


class RunConflict(TaskError):
    """The run id belongs to a run that had another input; the message names both remedies."""


def load_checkpoint(run_id: str, step: str) -> tuple[bool, Json]:
    """(True, what the step returned), or (False, None) where it has not finished. Raises CheckpointError."""
    record = get_item(_key(run_id, step))
    if record is None:
        return False, None
    key, digest = str(record["s3_key"]), str(record["sha256"])
    try:
        body = s3().get_object(Bucket=settings().bucket, Key=key)["Body"].read()
    except ClientError as error:
        if is_missing(error):
            raise CheckpointError(f"the checkpoint of step {step} of run {run_id} is gone: {key}") from None
        raise
    if hashlib.sha256(body).hexdigest() != digest:
        raise CheckpointError(f"the checkpoint of step {step} of run {run_id} was changed: {key}")
    return True, parse_json(body.decode("utf-8"))


def save_checkpoint(run_id: str, step: str, value: Json) -> Json:
    """Records what a step returned, and returns the recorded value: an earlier worker's, if there is one."""
    body = dump_json(value).encode("utf-8")
    digest = hashlib.sha256(body).hexdigest()
    key = f"runs/{run_id}/{step}/{digest}.json"
    record = _key(run_id, step)
    s3().put_object(Bucket=settings().bucket, Key=key, Body=body, ContentType="application/json")
    earlier = put_if(
        "attribute_not_exists(pk)", {**record, "s3_key": key, "sha256": digest, "bytes": len(body)}
    )
    return value if earlier is None else load_checkpoint(run_id, step)[1]


def run_step(run_id: str, step: str, compute: Callable[[], Json]) -> Json:
    """The recorded result of the step, or else what `compute` returns, which is then recorded.

    Objects that `compute` stores must have keys derived from their content: if two workers run the same step,
    one's result is kept, and the other must not overwrite its objects. Raises CheckpointError, and what
    `compute` raises.
    """
    finished, value = load_checkpoint(run_id, step)
    if finished:
        return value
    computed = compute()
    return persist(lambda: save_checkpoint(run_id, step, computed))


def load_step(run_id: str, step: str) -> Json:
    """What an earlier step of the run returned. Raises CheckpointError where it has not finished."""
    finished, value = load_checkpoint(run_id, step)
    if not finished:
        raise CheckpointError(
            f"step {step} of run {run_id} has no checkpoint; start the run from its beginning"
        )
    return value


def _key(run_id: str, step: str) -> dict[str, str]:
    if not RUN_ID.fullmatch(run_id):
        raise CheckpointError(f"a run id has 1 to 128 of the characters 0-9A-Za-z_.-; this one is {run_id!r}")
    return {"pk": f"run#{run_id}", "sk": f"step#{step}"}
