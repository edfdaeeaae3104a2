"""Lambda as on AWS: concurrency and payload limits, memory, and how it reports a process that fails or dies.

Only for `provided` runtimes, which all Lambdas of the stack have here.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import cache, wraps
from pathlib import Path
from subprocess import Popen
from typing import Any

from ministack.core import lambda_runtime  # type: ignore[import-untyped]
from ministack.services import lambda_svc  # type: ignore[import-untyped]

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.requests import Answer, Headers, fate

logger = logging.getLogger("stepflake")

Json = Any
Function = dict[str, Any]
Result = dict[str, Any]
Handler = Callable[[str, str, Headers, bytes, dict[str, list[str]]], Awaitable[Answer]]

_CONCURRENCY = "lambda.ConcurrentExecutions"
_SYNC, _ASYNC = "lambda.SyncPayload", "lambda.AsyncPayload"

# What stays for functions without reserved concurrency.
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
_UNRESERVED = 100

# How much more than the limit Lambda lets pass: "exceeded maximum allowed payload size (6291556 bytes)".
_ANSWER_SLACK = 100

# What a Lambda of the stack has in memory for itself, measured; all of them may have half of the machine.
_PROCESS_BYTES = 40 * 2**20
_FEWEST_PROCESSES = 16

# Shared libraries are counted for each process, and count for none on Lambda.
_MEMORY_ALLOWANCE = 1.1
_MEMORY_INTERVAL_SECONDS = 0.1

# How late the end of a process may be noticed.
_POLL_SECONDS = 0.05

# A killed invocation dies within this time, if it takes that long.
_KILL_WITHIN_SECONDS = 0.2

# The pauses of a queue's poller that is throttled.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0

_INVOCATION = re.compile(r"^/2015-03-31/functions/[^/]+/invocations/?$")

# Until when the poller of a queue tries an invocation again that was throttled.
_polls_until: ContextVar[float | None] = ContextVar("polls_until", default=None)


def install() -> None:
    """Changes MiniStack's Lambda."""
    from ministack import app  # type: ignore[import-untyped]
    from ministack.services.cloudformation import provisioners  # type: ignore[import-untyped]

    resource = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    resource.update({change: _with_concurrency(resource[change]) for change in ("create", "update")})
    lambda_runtime.ProvidedWorker = Environment
    lambda_svc._execute_function_provided_warm = _run
    lambda_svc._acquire_execution_slot = _acquire
    lambda_svc._throttle_response = throttled
    lambda_svc.invalidate_worker = retire
    lambda_svc.release_worker = _release
    lambda_svc._put_function_concurrency = _reserving(lambda_svc._put_function_concurrency)
    lambda_svc._execute_function = _retrying(lambda_svc._execute_function)
    lambda_svc._run_sqs_batch = _polling(lambda_svc._run_sqs_batch)
    app.SERVICE_HANDLERS["lambda"] = _sized(app.SERVICE_HANDLERS["lambda"])
    if Path("/proc/self/statm").exists():
        threading.Thread(target=_watch_memory, name="memory", daemon=True).start()


# Environments


class InvocationError(Exception):
    """What an invocation reports in place of an answer: `payload`, as Lambda's caller gets it."""

    def __init__(self, payload: Json) -> None:
        super().__init__(payload)
        self.payload = payload

    @classmethod
    def of(cls, error_type: str, message: str) -> "InvocationError":
        return cls({"errorType": error_type, "errorMessage": message})


class Environment(lambda_runtime.ProvidedWorker):  # type: ignore[misc]
    """One execution environment: a process under its runtime client, with one invocation at a time.

    `is_retired`: its function's code or configuration was replaced; it ends after its invocation.
    """

    is_retired = False
    _is_out_of_memory = False
    _result: dict[str, Json]
    _current_request_id: str | None

    def invoke(
        self,
        event: Json,
        request_id: str,
        *,
        trace_id: str | None = None,
        invoked_function_arn: str | None = None,
    ) -> Result:
        """Runs one invocation; starts the process first, where there is none."""
        with self._lock:
            self._is_out_of_memory = False
            is_cold = self._proc is None or self._proc.poll() is not None
            try:
                if is_cold:
                    self._start(request_id)
                self._hand_over(event, request_id, trace_id, invoked_function_arn)
                answer = self._await_answer(request_id)
            except InvocationError as error:
                self._teardown()  # the process only: other environments of the function go on
                answer = {"error": error.payload}
                log = self._drain_stderr()
            else:
                log = self._drain_stderr_bounded()
            if "error" in answer:
                return {
                    "status": "error",
                    "error_payload": answer["error"],
                    "cold_start": is_cold,
                    "log": log,
                }
            return {"status": "ok", "result": answer.get("response"), "cold_start": is_cold, "log": log}

    def check_memory(self) -> None:
        """Kills the process where it has more memory than its function."""
        process: Popen[bytes] | None = self._proc
        if process is None or process.poll() is not None:
            return
        if _resident_bytes(process.pid) > int(self.config.get("MemorySize", 128)) * 2**20 * _MEMORY_ALLOWANCE:
            self._is_out_of_memory = True
            process.kill()

    def _start(self, request_id: str) -> None:
        """Starts the process. An init that takes longer than 10 s is repeated with the function's timeout.

        https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
        """
        timeout = self._timeout
        try:
            try:
                self._spawn()
            except lambda_runtime.ProvidedInitTimeout:
                self._spawn(init_timeout=timeout)
        except lambda_runtime.ProvidedInitTimeout:
            raise _timed_out(request_id, timeout) from None
        except lambda_runtime.ProvidedRuntimeError as error:  # there is no bootstrap that can be run
            raise InvocationError.of(error.error_type, f"RequestId: {request_id} Error: {error}") from error
        except _Exited as error:
            raise self._exited(request_id, error.status) from error

    def _await_init(self, init_timeout: float | None = None) -> None:
        seconds = lambda_runtime._PROVIDED_INIT_TIMEOUT if init_timeout is None else init_timeout
        deadline = time.monotonic() + seconds
        while not self._init_settled.wait(_POLL_SECONDS):
            status = self._proc.poll()
            # Its last words may still be on the way.
            if status is not None and not self._init_settled.wait(_POLL_SECONDS):
                raise _Exited(status)
            if time.monotonic() >= deadline:
                raise lambda_runtime.ProvidedInitTimeout(f"init took longer than {seconds:g} s")
        if self._init_error is not None:
            raise InvocationError(self._init_error)

    def _hand_over(self, event: Json, request_id: str, trace_id: str | None, arn: str | None) -> None:
        with self._state_lock:
            self._result = {}
            self._response_ready.clear()
            self._current_request_id = request_id
            pending = self._pending
        deadline_ms = int((time.time() + self._timeout) * 1000)
        pending.put((request_id, event, deadline_ms, trace_id, arn or self.config.get("FunctionArn", "")))

    def _await_answer(self, request_id: str) -> dict[str, Json]:
        """The runtime's `response` or `error`. Raises InvocationError."""
        now = time.monotonic()
        deadline, kill_at = now + self._timeout, now + _seconds_to_live(self.func_name)
        while not self._response_ready.wait(max(0.0, min(_POLL_SECONDS, deadline - now, kill_at - now))):
            now = time.monotonic()
            if now >= kill_at:
                kill_at = float("inf")
                self._proc.kill()
            status = self._proc.poll()
            if status is not None:
                if self._response_ready.wait(_POLL_SECONDS):  # it answered before it ended
                    break
                raise self._exited(request_id, status)
            if now >= deadline:
                raise _timed_out(request_id, self._timeout)
        with self._state_lock:
            answer = self._result
            self._current_request_id = None
        if self._proc.poll() is not None:
            self._teardown()
        return answer

    def _record_result(self, generation: int, request_id: str, kind: str, payload: Json) -> bool:
        if kind == "response" and not ACCOUNT.fits(_SYNC, _size(payload) - _ANSWER_SLACK):
            most = int(ACCOUNT.value(_SYNC).size) + _ANSWER_SLACK
            message = f"Response payload size exceeded maximum allowed payload size ({most} bytes)."
            kind, payload = "error", {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message}
        recorded: bool = super()._record_result(generation, request_id, kind, payload)
        return recorded

    @property
    def _timeout(self) -> float:
        return float(self.config.get("Timeout", 3))

    def _exited(self, request_id: str, status: int) -> InvocationError:
        error_type = "Runtime.OutOfMemory" if self._is_out_of_memory else "Runtime.ExitError"
        return InvocationError.of(error_type, f"RequestId: {request_id} Error: {_describe_exit(status)}")


class _Exited(Exception):
    """The process ended before it asked for its first event."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _timed_out(request_id: str, seconds: float) -> InvocationError:
    message = f"RequestId: {request_id} Error: Task timed out after {seconds:.2f} seconds"
    return InvocationError.of("Sandbox.Timedout", message)


_SIGNALS = {4: "illegal instruction", 6: "aborted", 9: "killed", 11: "segmentation fault", 15: "terminated"}


def _describe_exit(status: int) -> str:
    if status == 0:
        return "Runtime exited without providing a reason"
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    return f"Runtime exited with error: signal: {_SIGNALS.get(-status, -status)}"


def _seconds_to_live(function: str) -> float:
    """When the fault `kill` ends the next invocation of a function; infinite for most."""
    faults = ACCOUNT.faults
    if not faults.kill:
        return float("inf")
    number = ACCOUNT.call_number(f"kill/{function}")
    if faults.chance(f"{function}/killed", number) >= faults.kill:
        return float("inf")
    return faults.chance(f"{function}/killed after", number) * _KILL_WITHIN_SECONDS


def _watch_memory() -> None:
    while True:
        time.sleep(_MEMORY_INTERVAL_SECONDS)
        if not ACCOUNT.enabled:
            continue
        with lambda_runtime._lock:
            busy = [each for pool in lambda_runtime._workers.values() for each in pool if each.in_use]
        for environment in busy:
            if isinstance(environment, Environment):
                environment.check_memory()


def _resident_bytes(pid: int) -> int:
    """What a process and its children have in memory; 0 for one that has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(_resident_bytes, _children(pid)))


def _children(pid: int) -> Iterator[int]:
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, listing.read_text().split())
        except OSError:
            continue  # the thread has ended


# Invocations


def _run(func: Function, event: Json, request_id: str) -> Result:
    """Runs an invocation in an environment of its own.

    In place of MiniStack's executor, which ends all environments of a function when one fails.
    """
    config = func.get("config") or func
    lambda_svc._ensure_reaper_thread()
    environment, _ = lambda_svc.acquire_worker(
        config["FunctionName"], config, func["code_zip"], qualifier=config.get("Version", "$LATEST")
    )
    try:
        result = environment.invoke(
            event,
            request_id,
            trace_id=lambda_svc._xray_trace_id_for_invocation(config),
            invoked_function_arn=config.get("FunctionArn"),
        )
    finally:
        lambda_svc.release_worker(environment)
    if result["status"] == "ok":
        return {"body": result["result"], "log": result["log"]}
    return {"body": result["error_payload"], "error": True, "log": result["log"]}


def retire(
    func_name: str, qualifier: str | None = None, account: str | None = None, region: str | None = None
) -> None:
    """Ends the environments of a function that was changed or deleted; those at work end after it."""
    wanted = (account, region, func_name, qualifier)
    with lambda_runtime._lock:
        keys = [
            key
            for key in lambda_runtime._workers
            if all(want in (None, has) for want, has in zip(wanted, key.split(":"), strict=True))
        ]
        retired = [each for key in keys for each in lambda_runtime._workers.pop(key)]
        for each in retired:
            each.is_retired = True
        idle = [each for each in retired if not each.in_use]
    lambda_runtime.kill_workers(idle)


def _release(environment: Any) -> None:
    if environment is None:
        return
    lambda_runtime.release_worker(environment)
    if getattr(environment, "is_retired", False):
        lambda_runtime.kill_workers([environment])


# Concurrency


def _acquire(func: Function, config: Function) -> tuple[str | None, str | None]:
    """Takes one of the account's concurrent executions, or of the function's own where it has reserved some.

    Returns a key to release it with; or None, and whose limit was reached: "function" or "account".
    """
    reserved = lambda_svc._reserved_concurrency(func, config)
    key = lambda_svc._inflight_key(config)
    most = ACCOUNT.value(_CONCURRENCY).size
    with lambda_svc._inflight_lock:
        running: dict[str, int] = lambda_svc._inflight
        limit = None
        if lambda_svc._inflight_total >= _machine_limit():
            logger.warning("Lambda: this machine carries no more than %d processes", _machine_limit())
            limit = "account"
        elif reserved is not None and ACCOUNT.enabled:
            limit = "function" if running.get(key, 0) >= reserved else None
        elif ACCOUNT.enabled:
            others = _reserved_by_key(key)
            unreserved = lambda_svc._inflight_total - sum(running.get(other, 0) for other in others)
            limit = "account" if unreserved >= most - sum(others.values()) else None
        if limit is None:
            running[key] = running.get(key, 0) + 1
            lambda_svc._inflight_total += 1
    if ACCOUNT.enabled:
        ACCOUNT.count(_CONCURRENCY, allowed=limit is None)
    return (key, None) if limit is None else (None, limit)


def _reserved_by_key(key: str) -> dict[str, int]:
    """What the functions of this account and region have reserved, by the keys of their executions."""
    scope = key.rpartition(":")[0]
    reserved = {}
    for name in list(lambda_svc._functions.keys()):
        function = lambda_svc._functions.get(name) or {}
        concurrency = lambda_svc._reserved_concurrency(function, function.get("config") or {})
        if concurrency is not None:
            reserved[f"{scope}:{name}"] = concurrency
    return reserved


@cache
def _machine_limit() -> int:
    """How many Lambdas this machine runs at the same time, whatever the account may."""
    return int(max(_FEWEST_PROCESSES, lambda_svc._memory_budget_bytes() / 2 // _PROCESS_BYTES))


def throttled(reason_code: str, msg: str = "", retry_after: int = 1) -> Result:
    """What an invocation answers that Lambda refuses. `msg`: MiniStack's text, which is not Lambda's."""
    return {
        "throttle": True,
        "body": {
            "__type": "TooManyRequestsException",
            "Type": "User",
            "message": "Rate Exceeded.",
            "Reason": reason_code,
            "retryAfterSeconds": str(retry_after),
        },
        "error": True,
        "log": "",
    }


def _with_concurrency(change: Callable[..., tuple[str, Any]]) -> Callable[..., tuple[str, Any]]:
    """CloudFormation's AWS::Lambda::Function, with the reserved concurrency that MiniStack leaves out."""

    @wraps(change)
    def changed(*details: Any, **more: Any) -> tuple[str, Any]:
        name, attributes = change(*details, **more)
        # A creation has the properties second, an update after the old ones.
        properties = details[2] if isinstance(details[2], dict) else details[1]
        reserved = properties.get("ReservedConcurrentExecutions")
        if reserved is None:
            lambda_svc._delete_function_concurrency(name)
            return name, attributes
        wanted = {"ReservedConcurrentExecutions": int(reserved)}
        status, _, body = lambda_svc._put_function_concurrency(name, wanted)
        if status >= 400:  # noqa: PLR2004 - HTTP
            raise ValueError(f"AWS::Lambda::Function {name}: {json.loads(body)['message']}")
        return name, attributes

    return changed


def _reserving(put: Callable[[str, Any], Answer]) -> Callable[[str, Any], Answer]:
    """PutFunctionConcurrency, which leaves enough for functions without reserved concurrency."""

    def reserve(func_name: str, data: dict[str, Any]) -> Answer:
        key = lambda_svc._inflight_key({"FunctionName": func_name})
        others = _reserved_by_key(key)
        others.pop(key, None)
        wanted = int(data.get("ReservedConcurrentExecutions") or 0)
        if ACCOUNT.value(_CONCURRENCY).size - sum(others.values()) - wanted < _UNRESERVED:
            message = (
                "Specified ReservedConcurrentExecutions for function decreases account's"
                f" UnreservedConcurrentExecution below its minimum value of [{_UNRESERVED}]."
            )
            refused: Answer = lambda_svc.error_response_json("InvalidParameterValueException", message, 400)
            return refused
        return put(func_name, data)

    return reserve


def _retrying(execute: Callable[[Function, Json], Result]) -> Callable[[Function, Json], Result]:
    """An invocation; a queue's poller tries one that is throttled again as long as its messages are hidden.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """

    def run(func: Function, event: Json) -> Result:
        until = _polls_until.get()
        if until is None:
            return execute(func, event)
        _polls_until.set(None)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            expected = fate("lambda.Invoke")
            refused = expected.throttled or expected.failed
            result = throttled("ConcurrentInvocationLimitExceeded") if refused else execute(func, event)
            if not result.get("throttle") or time.time() + pause >= until:
                return result
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    return run


def _polling(run: Callable[..., None]) -> Callable[..., None]:
    def poll(esm: Any, func: Function, event: Json, batch: list[dict[str, Any]], *queue: str) -> None:
        _polls_until.set(min(float(message["visible_at"]) for message in batch))
        run(esm, func, event, batch, *queue)

    return poll


# Sizes


def fits(event: Json) -> bool:
    """Whether an event is within the limit of an invocation that is waited for."""
    return ACCOUNT.fits(_SYNC, _size(event))


def _size(payload: Json) -> int:
    """The bytes of a document as the runtime client writes it."""
    return len(json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _sized(handle: Handler) -> Handler:
    """Lambda's API, where an event that is too large is refused.

    https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
    """

    async def sized(
        method: str, path: str, headers: Headers, body: bytes, query: dict[str, list[str]]
    ) -> Answer:
        if method == "POST" and _INVOCATION.match(path):
            kind = headers.get("x-amz-invocation-type", "RequestResponse")
            name = _ASYNC if kind == "Event" else _SYNC
            if not ACCOUNT.fits(name, len(body)):
                limit = int(ACCOUNT.value(name).size)
                message = f"{len(body)} byte payload is too large for the {kind} invocation type"
                message += f" (limit {limit} bytes)"
                code = "RequestEntityTooLargeException"
                return (
                    413,
                    {"Content-Type": "application/json", "x-amzn-errortype": code},
                    json.dumps({"Type": "User", "message": message}).encode(),
                )
        return await handle(method, path, headers, body, query)

    return sized
