"""Which executions can be redriven, and what RedriveExecution and DescribeExecution say about it.

https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html
"""

from datetime import UTC, datetime, timedelta

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.states.attempts import Execution

REDRIVABLE_PERIOD = timedelta(days=14)

# Events that a redriven execution needs at least: ExecutionRedriven and the one with which it ends.
_NEEDED_EVENTS = 2

# Client tokens that are remembered for one execution.
MAX_CLIENT_TOKENS = 10


def why_not_redrivable(execution: Execution) -> str:
    """Why an execution cannot be redriven, as DescribeExecution says it, or "" where it can."""
    status = execution["status"]
    if status in ("RUNNING", "SUCCEEDED"):
        return f"Execution is {status} and cannot be redriven"
    if len(execution["events"]) + _NEEDED_EVENTS > ACCOUNT.value("states.HistoryEvents").size:
        return "Execution history event limit exceeded"
    stopped = datetime.fromisoformat(execution["stopDate"])
    if datetime.now(UTC) - stopped > REDRIVABLE_PERIOD:
        return "Execution redrivable period exceeded"
    return ""


def redrive_fields(execution: Execution) -> dict[str, object]:
    """What DescribeExecution and status events say about redrives."""
    reason = why_not_redrivable(execution)
    fields: dict[str, object] = {
        "redriveCount": execution.get("redriveCount", 0),
        "redriveStatus": "NOT_REDRIVABLE" if reason else "REDRIVABLE",
    }
    if reason:
        fields["redriveStatusReason"] = reason
    elif execution.get("mapRunArn"):
        fields["redriveStatus"] = "REDRIVABLE_BY_MAP_RUN"
    if execution.get("redriveDate"):
        fields["redriveDate"] = execution["redriveDate"]
    return fields
