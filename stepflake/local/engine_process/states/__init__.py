"""Step Functions as on AWS, where MiniStack does otherwise: executions, their states, limits and redrives.

MiniStack keeps the state machines and evaluates JSONata and JSONPath; what runs executions is here.
"""

import json
import time
from typing import Any

from stepflake.local.engine_process.requests import is_role


def install() -> None:
    """Changes MiniStack's Step Functions."""
    from ministack.services import stepfunctions  # type: ignore[import-untyped]

    from stepflake.local.engine_process.states import (
        children,
        distributed,
        flows,
        maps,
        operations,
        retries,
        status_events,
        tasks,
        tokens,
    )
    from stepflake.local.engine_process.states.attempts import FLOW

    stepfunctions._start_execution = operations.start_execution
    stepfunctions._start_sync_execution = operations.start_sync_execution
    stepfunctions._describe_execution = operations.describe_execution
    stepfunctions._stop_execution = operations.stop_execution
    stepfunctions._emit_execution_status_event = status_events.send_status_event
    stepfunctions._send_task_success = tokens.send_task_success
    stepfunctions._send_task_failure = tokens.send_task_failure
    stepfunctions._send_task_heartbeat = tokens.send_task_heartbeat
    stepfunctions._get_activity_task = tokens.get_activity_task
    stepfunctions._execute_task = tasks.execute_task
    stepfunctions._execute_map = maps.execute_map
    stepfunctions._execute_parallel = maps.execute_parallel
    stepfunctions._run_distributed_map = distributed.run_map_run
    stepfunctions._run_sub_machine = distributed.run_child_states
    stepfunctions._apply_state_assign = flows.assign
    stepfunctions._error_matches = retries.matches
    stepfunctions._invoke_with_callback = tasks.send_with_token
    stepfunctions._invoke_nested_start_execution_sync = children.start_child

    def scaled_sleep(seconds: float) -> None:
        scaled = seconds * stepfunctions._SFN_WAIT_SCALE
        flow = FLOW.get()
        if flow is not None:
            flow.sleep(scaled)
        elif scaled > 0:
            time.sleep(scaled)

    stepfunctions._scaled_sleep = scaled_sleep
    _install_requests(stepfunctions, operations)


def _install_requests(stepfunctions: Any, operations: Any) -> None:
    from ministack.core import router  # type: ignore[import-untyped]

    handle_request = stepfunctions.handle_request
    create_machine = stepfunctions._create_state_machine
    create_activity = stepfunctions._create_activity

    async def handle(method: str, path: str, headers: dict[str, str], body: bytes, query: Any) -> Any:
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        if operation == "RedriveExecution":
            return stepfunctions._finalize_response(operations.redrive_execution(json.loads(body)))
        if operation == "DescribeExecution" and is_role(router.extract_access_key_id(headers, query)):
            answer = operations.describe_visible_execution(json.loads(body))
            return stepfunctions._finalize_response(answer)
        return await handle_request(method, path, headers, body, query)

    stepfunctions.handle_request = handle
    stepfunctions._create_state_machine = lambda data: operations.check_name(data) or create_machine(data)
    stepfunctions._create_activity = lambda data: operations.check_name(data) or create_activity(data)
