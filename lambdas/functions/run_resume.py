from core.runs import own_runs
from stepflake_lambda import remote_function


@remote_function(chunk_rows=50)
def run_resume(handle: str | None) -> str | None:
    """Resumes a workflow's run that failed or was stopped, and returns the handle to follow."""
    return None if handle is None else own_runs().resume(handle).arn
