"""Runs MiniStack until it is stopped, with what the modules of this package install."""

import runpy
import socketserver

from stepflake.local.engine_process import (
    comprehend,
    dynamodb_batches,
    dynamodb_expressions,
    execute_api,
    front,
    lambdas,
    machine_creation,
    map_runs,
    optimized_calls,
    requests,
    rule_targets,
    sdk_calls,
    states,
    task_calls,
)

# What changes how executions run comes before what stands in front of their calls.
_MODULES = (
    states,
    task_calls,
    optimized_calls,
    sdk_calls,
    map_runs,
    machine_creation,
    rule_targets,
    lambdas,
    comprehend,
    dynamodb_batches,
    dynamodb_expressions,
    execute_api,
    requests,
    front,
)


def main() -> None:
    """Installs everything, then runs MiniStack in this process."""
    # Events go to Lambdas through Python's socketserver, which writes head and body separately: with Nagle's
    # algorithm each invocation would wait 40 ms for the acknowledgement in between.
    socketserver.StreamRequestHandler.disable_nagle_algorithm = True
    for module in _MODULES:
        module.install()
    runpy.run_module("ministack", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
