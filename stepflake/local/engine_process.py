"""The engine's process: MiniStack, without two of its delays that AWS does not have.

`stepflake.local.engine` starts it as `python -m stepflake.local.engine_process`, and stops it.
"""

import runpy
import socketserver
import time
import types

# What MiniStack sleeps at the start of each execution, whatever SFN_WAIT_SCALE says.
START_WAIT_SECONDS = 0.15


def sleep(seconds: float) -> None:
    """Sleeps, except at an execution's start."""
    if seconds != START_WAIT_SECONDS:
        time.sleep(seconds)


def main() -> None:
    """Runs MiniStack until it is stopped."""
    from ministack.services import stepfunctions  # type: ignore[import-untyped]

    stepfunctions.time = types.SimpleNamespace(**{**vars(time), "sleep": sleep})
    # Events go to Lambdas through Python's socketserver, which writes head and body separately: with Nagle's
    # algorithm each invocation would wait 40 ms for the acknowledgement in between.
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True
    runpy.run_module("ministack", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
