from typing import Any

from core.runs import own_runs
from stepflake_lambda import remote_function


@remote_function(on_error="object", chunk_rows=100, concurrency=8)
def run_result(handle: str | None) -> Any:
    """Returns a workflow run's output, null while it runs, or an error object."""
    if handle is None:
        return None
    run = own_runs().find(handle)
    if run.status in ("FAILED", "TIMED_OUT", "ABORTED"):
        return {"error": run.error, "cause": run.cause, "execution": run.arn}
    return run.output
