from runtime.clients import stepfunctions
from runtime.remote import remote_function
from runtime.runs import resume_run


@remote_function(chunk_rows=50)
def run_resume(handle: str | None) -> str | None:
    """Resumes a workflow's run that failed or was stopped, and returns the handle to follow."""
    return None if handle is None else resume_run(stepfunctions(), handle).handle
