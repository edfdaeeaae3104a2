"""When the load may begin: computed once for each run, so that a resumed run does not wait another day."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict
from zoneinfo import ZoneInfo

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.checkpoints import load_step, run_step
from core.errors import TaskError, reraise_transient

logger = Logger()


class ApprovalRefused(TaskError):
    """The load was not approved; the message says how to ask again."""


class Event(TypedDict):
    """What the machine sends. `approval`: what the approver answered, None where none was required."""

    run_id: str
    approval: Any


class Scheduled(TypedDict):
    """`load_at`: when the load may begin, as `2026-11-22T03:00:00Z`; it may have passed."""

    load_at: str


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Scheduled:
    """Records the approval and the time of the load. Raises ApprovalRefused, CheckpointError."""
    run_id = event["run_id"]
    logger.append_keys(run_id=run_id)
    done = run_step(run_id, "schedule", lambda: schedule(run_id, event["approval"]))
    return Scheduled(load_at=done["load_at"])


def schedule(run_id: str, approval: Any) -> dict[str, Any]:
    """The checkpoint: {"load_at", "approval"}."""
    wanted = load_step(run_id, "extract")["input"]
    if wanted["approval"] and not (isinstance(approval, dict) and approval.get("approved") is True):
        raise ApprovalRefused(
            f'run {run_id} may load only after the answer {{"approved": true}}, and it got another; '
            "a new run with this run_id asks again"
        )
    now = datetime.now(UTC)
    hour = wanted.get("off_peak_hour")
    start = now if hour is None else next_off_peak(now, int(hour), ZoneInfo(wanted["time_zone"]))
    return {"load_at": start.strftime("%Y-%m-%dT%H:%M:%SZ"), "approval": approval}


def next_off_peak(now: datetime, hour: int, zone: ZoneInfo) -> datetime:
    """The first moment from `now` on at which clocks in the zone show the hour, in UTC.

    Where clocks show it now, that is now. Where they skip it (daylight saving time begins), it is the moment
    at which they jump; where they show it twice, the first time.
    """
    local = now.astimezone(zone)
    if local.hour == hour:
        return now
    for days in range(3):
        start = datetime(local.year, local.month, local.day, hour, tzinfo=zone) + timedelta(days=days)
        # In UTC, since Python compares times of one zone by their clocks. A time that clocks skip has the
        # offset from before the jump, which makes it the moment of the jump.
        moment = start.astimezone(UTC)
        if moment >= now:
            return moment
    raise AssertionError(f"no {hour}:00 in {zone} within two days of {now}")
