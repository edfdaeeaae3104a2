"""What importing a handler costs, over `import boto3` and one client: the larger part of a cold start."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

LAMBDAS = Path(__file__).parent.parent / "lambdas"
BASELINE = "import boto3; boto3.client('stepfunctions')"
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def import_ratios(handlers: list[str], runs: int = 7) -> dict[str, float]:
    """For each handler, the median over pairs of processes of its import's seconds over the baseline's."""
    return {
        name: statistics.median(_seconds(f"import {name}") / _seconds(BASELINE) for _ in range(runs))
        for name in handlers
    }


def _seconds(statement: str) -> float:
    environment = {**os.environ, "PYTHONPATH": str(LAMBDAS), "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-c", TIMED.format(statement)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)
