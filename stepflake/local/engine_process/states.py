"""Step Functions as on AWS: what MiniStack does otherwise."""

import time
import types

# What MiniStack sleeps at the start of each execution, whatever SFN_WAIT_SCALE says.
START_WAIT_SECONDS = 0.15


def install() -> None:
    """Changes MiniStack's Step Functions."""
    from ministack.services import stepfunctions  # type: ignore[import-untyped]

    stepfunctions.time = types.SimpleNamespace(**{**vars(time), "sleep": sleep})


def sleep(seconds: float) -> None:
    """Sleeps, except at an execution's start."""
    if seconds != START_WAIT_SECONDS:
        time.sleep(seconds)
