from typing import Any

from core.runs import own_runs
from stepflake_lambda import remote_function


@remote_function(on_error="object", chunk_rows=100, concurrency=8)
def run_status(handle: str | None) -> Any:
    """Returns the state of a workflow's run: workflow, status, started, stopped, error, cause."""
    if handle is None:
        return None
    run = own_runs().find(handle)
    return {
        "workflow": run.workflow,
        "status": run.status,
        "started": run.started,
        "stopped": run.stopped,
        "error": run.error or None,
        "cause": run.cause or None,
    }
