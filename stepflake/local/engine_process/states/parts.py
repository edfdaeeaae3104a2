"""The parts of a Map or a Parallel: run at once, and stopped when one of them fails."""

import contextvars
import threading
from collections.abc import Callable

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.states.attempts import Flow, StoppedError


def run_parts(
    flow: Flow,
    workers: int,
    run_part: Callable[[int], None],
    is_tolerated: Callable[[int], bool] = lambda _: False,
) -> list[Exception]:
    """Runs the parts of a flow's position that are not done, so many at once; their errors, oldest first.

    `is_tolerated`: whether so many errors leave the others running. Raises StoppedError.
    """
    todo = iter([number for number, part in enumerate(flow.position.parts) if not part.is_done])
    errors: list[Exception] = []
    lock = threading.Lock()
    finished = threading.Event()
    is_stopping = False
    running = min(workers, sum(not part.is_done for part in flow.position.parts))

    def work() -> None:
        nonlocal is_stopping
        while True:
            with lock:
                number = None if is_stopping else next(todo, None)
            if number is None:
                return
            try:
                run_part(number)
            except StoppedError:
                return
            except Exception as error:  # noqa: BLE001 - raised by the flow's own thread
                with lock:
                    errors.append(error)
                    is_stopping = not is_tolerated(len(errors))
                if is_stopping:
                    flow.stop_parts()

    def run_worker() -> None:
        nonlocal running
        try:
            work()
        finally:
            with lock:
                running -= 1
                if running == 0:
                    finished.set()

    flow.open_parts()
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(run_worker,), daemon=True)
        for _ in range(running)
    ]
    for thread in threads:
        thread.start()
    try:
        if threads:
            flow.wait(finished)
    except StoppedError:
        flow.stop_parts()
        raise
    finally:
        for thread in threads:
            thread.join()
    return errors


def raise_first(errors: list[Exception], default: str) -> None:
    """Raises the first error, if there is one. `default`: the name of what is not an error of a state."""
    if errors and isinstance(errors[0], stepfunctions._ExecutionError):
        raise errors[0]
    if errors:
        raise stepfunctions._ExecutionError(default, str(errors[0]))
