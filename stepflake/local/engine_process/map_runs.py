"""What a distributed Map does with its machine's role: it reads items from S3 and starts children.

https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html
Of the rights that this page lists, DescribeExecution and StopExecution are not asked for: it names them for
executions of the machine, and not for those of its Maps, so that it is not clear where AWS checks them.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.optimized_calls import ERRORS
from stepflake.local.engine_process.task_calls import Document, current_machine, task_error

# The child in which this thread is.
_child: ContextVar[str] = ContextVar("child", default="")


def install() -> None:
    """Puts this in front of MiniStack's distributed Map."""
    from ministack.services import stepfunctions  # type: ignore[import-untyped]

    stepfunctions._run_distributed_map = _run_map(stepfunctions._run_distributed_map)
    stepfunctions._run_sub_machine = _run_part(stepfunctions._run_sub_machine)
    stepfunctions._read_map_items = _read_items(stepfunctions._read_map_items)
    stepfunctions._s3_object_text = _read_object(stepfunctions._s3_object_text)


def authorize_children() -> None:
    """Raises an error where the machine may not start executions of itself, which a Map's children are.

    The error's name is that of startExecution: AWS documents none.
    """
    if machine := current_machine():
        machine.authorize("states:StartExecution", machine.arn, ERRORS["states"])


def wait_for_start() -> None:
    """Waits until a child can be started: AWS delays them where StartExecution's rate is used up."""
    ACCOUNT.wait("states.StartExecution")


def _run_map(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_map(*arguments: Any) -> Any:
        authorize_children()
        return run(*arguments)

    return run_map


def _run_part(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_part(states: Any, start_at: Any, value: Any, execution: Document, context: Any) -> Any:
        # A child, and not a part of a Map or Parallel in it.
        if execution.get("mapRunArn") and _child.get() != execution["executionArn"]:
            _child.set(execution["executionArn"])
            wait_for_start()
        return run(states, start_at, value, execution, context)

    return run_part


def _read_items(read: Callable[..., Any]) -> Callable[..., Any]:
    def read_items(reader: Document, effective: Any, context: Any) -> Any:
        from ministack.services import stepfunctions

        if reader.get("Resource", "").endswith("s3:listObjectsV2"):
            given = reader.get("Parameters") or reader.get("Arguments") or {}
            arguments = stepfunctions._resolve_params_obj(given, effective, context)
            _authorize_reading("s3:ListBucket", f"arn:aws:s3:::{arguments.get('Bucket')}")
        return read(reader, effective, context)

    return read_items


def _read_object(read: Callable[[str, str], str]) -> Callable[[str, str], str]:
    def read_object(bucket: str, key: str) -> str:
        _authorize_reading("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}")
        return read(bucket, key)

    return read_object


def _authorize_reading(action: str, resource: str) -> None:
    machine = current_machine()
    if machine and (message := machine.role.denial(action, resource)):
        raise task_error("States.ItemReaderFailed", message)
