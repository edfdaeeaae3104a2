"""What a distributed Map does with its machine's role: it reads items from S3 and starts children.

https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html
Of the rights that this page lists, DescribeExecution and StopExecution are not asked for: it names them for
executions of the machine, and not for those of its Maps, so that it is not clear where AWS checks them.
"""

from collections.abc import Callable
from typing import Any

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.optimized_calls import ERRORS
from stepflake.local.engine_process.task_calls import Document, current_machine, task_error


def install() -> None:
    """Puts the rights to read in front of MiniStack's ItemReader."""
    from ministack.services import stepfunctions  # type: ignore[import-untyped]

    stepfunctions._read_map_items = _read_items(stepfunctions._read_map_items)
    stepfunctions._s3_object_text = _read_object(stepfunctions._s3_object_text)


def authorize_children(redriven: str) -> None:
    """Raises an error where the machine may not start executions of itself, which a Map's children are.

    `redriven`: the ARN of the Map Run whose children are redriven, or "". The error's name is that of
    startExecution: AWS documents none.
    """
    machine = current_machine()
    if machine:
        machine.authorize("states:StartExecution", machine.arn, ERRORS["states"])
    if machine and redriven:
        children = redriven.rpartition(":")[0].replace(":mapRun:", ":execution:")
        machine.authorize("states:RedriveExecution", f"{children}:*", ERRORS["states"])


def wait_for_start() -> None:
    """Waits until a child can be started: AWS delays them where StartExecution's rate is used up."""
    ACCOUNT.wait("states.StartExecution")


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
