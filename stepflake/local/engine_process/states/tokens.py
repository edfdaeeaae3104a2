"""Task tokens: what waits for SendTaskSuccess, SendTaskFailure and SendTaskHeartbeat, and activities."""

import asyncio
import json
import threading
import time
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.states.attempts import Flow

Answer = tuple[int, dict[str, str], Any]

# Tokens of tasks that have ended; the oldest are forgotten above this number.
_MAX_CLOSED = 100_000
_closed: dict[str, None] = {}

_POLL_SECONDS, _POLL_INTERVAL_SECONDS = 60, 0.01
_lock = threading.Lock()


class TaskToken:
    """One token. `wake`: set when it is answered."""

    def __init__(self, flow: Flow, token: str, wake: threading.Event) -> None:
        self.flow = flow
        self.token = token
        self.wake = wake
        self.is_answered = False
        self.beat_at = time.monotonic()
        self._result: Any = None
        self._error: Any = None
        stepfunctions._task_tokens[token] = self

    def close(self) -> None:
        """Ends it: answers from now on are refused."""
        stepfunctions._task_tokens.pop(self.token, None)
        with _lock:
            _closed[self.token] = None
            while len(_closed) > _MAX_CLOSED:
                del _closed[next(iter(_closed))]

    def result(self) -> Any:
        """What it was answered with. Raises the engine's _ExecutionError for a failure."""
        if self._error is not None:
            raise self._error
        return self._result

    def answer(self, *, result: Any = None, error: Exception | None = None) -> bool:
        """Whether this is its first answer, which counts."""
        with _lock:
            if self.is_answered or self.flow.is_stopped:
                return False
            self._result, self._error, self.is_answered = result, error, True
        self.wake.set()
        return True


def send_task_success(data: dict[str, Any]) -> Answer:
    """SendTaskSuccess."""
    text = data.get("output", "")
    try:
        result = json.loads(text)
    except ValueError:
        return refuse("InvalidOutput", "Invalid Output: 'Invalid JSON in output'")
    if not ACCOUNT.fits("states.PayloadSize", len(text.encode(errors="surrogatepass"))):
        return refuse("InvalidOutput", "Invalid Output: 'Output exceeds the maximum size'")
    return _answer(data, result=result)


def send_task_failure(data: dict[str, Any]) -> Answer:
    """SendTaskFailure."""
    error = stepfunctions._ExecutionError(data.get("error") or "TaskFailed", data.get("cause") or "")
    return _answer(data, error=error)


def send_task_heartbeat(data: dict[str, Any]) -> Answer:
    """SendTaskHeartbeat."""
    token = stepfunctions._task_tokens.get(data.get("taskToken"))
    if token is None or token.is_answered:
        return _refuse_token(data)
    token.beat_at = time.monotonic()
    token.wake.set()
    return _done()


async def get_activity_task(data: dict[str, Any]) -> Answer:
    """GetActivityTask: waits up to a minute for a task, as on AWS."""
    arn = data.get("activityArn", "")
    if arn not in stepfunctions._activities:
        return refuse("ActivityDoesNotExist", f"Activity Does Not Exist: '{arn}'")
    deadline = time.monotonic() + _POLL_SECONDS
    while not (queue := stepfunctions._activity_tasks.get(arn)):
        if queue is None or time.monotonic() >= deadline:
            return _done()
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)
    task = queue.pop(0)
    token = stepfunctions._task_tokens.get(task["taskToken"])
    if token is not None:
        token.beat_at = time.monotonic()
        token.flow.add_aborted("ActivityStarted", {})
    answer: Answer = stepfunctions.json_response(task)
    return answer


def refuse(code: str, message: str) -> Answer:
    """Step Functions' answer to a request that it refuses."""
    answer: Answer = stepfunctions.error_response_json(code, message, 400)
    return answer


def _answer(data: dict[str, Any], *, result: Any = None, error: Exception | None = None) -> Answer:
    token = stepfunctions._task_tokens.get(data.get("taskToken"))
    if token is None or not token.answer(result=result, error=error):
        return _refuse_token(data)
    return _done()


def _refuse_token(data: dict[str, Any]) -> Answer:
    token = data.get("taskToken")
    if token in _closed or token in stepfunctions._task_tokens:
        return refuse("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")
    return refuse("TaskDoesNotExist", "Task Does Not Exist: 'Provided task does not exist'")


def _done() -> Answer:
    answer: Answer = stepfunctions.json_response({})
    return answer
