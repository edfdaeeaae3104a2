"""What the calls of an invocation cost and spared: one line in the log, and CloudWatch metrics."""

from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

if TYPE_CHECKING:
    from core.calls.permits import Permits
    from core.calls.reuse import Reuse

logger = Logger(child=True)

NAMESPACE = "stepflake"


def report(name: str, permits: "Permits | None", reuse: "Reuse | None", *, equal_rows: int = 0) -> None:
    """Logs and counts the calls of a function or service, where it has a limit or spared some.

    `equal_rows`: rows that got the answer of an equal one. Metrics are written to the log in CloudWatch's
    embedded metric format.
    """
    if not (permits or reuse or equal_rows):
        return
    counts: dict[str, float] = {}
    if permits:
        counts |= {"calls": permits.calls, "throttles": permits.throttles, "waited": round(permits.waited, 3)}
        _count_calls(permits)
    if reuse or equal_rows:
        spared = {"equal_rows": equal_rows}
        if reuse:
            spared |= {"reuse_hits": reuse.hits, "reuse_misses": reuse.misses, "reuse_lost": reuse.lost}
        counts |= spared
        metrics = EphemeralMetrics(namespace=NAMESPACE)
        metrics.add_dimension("function", name)
        metrics.add_metric("EqualRows", MetricUnit.Count, equal_rows)
        metrics.add_metric("ReuseHits", MetricUnit.Count, reuse.hits if reuse else 0)
        metrics.add_metric("ReuseMisses", MetricUnit.Count, reuse.misses if reuse else 0)
        metrics.flush_metrics()
    logger.info("calls", extra=counts)


def _count_calls(permits: "Permits") -> None:
    metrics = EphemeralMetrics(namespace=NAMESPACE)
    metrics.add_dimension("limit", permits.limit.name)
    metrics.add_metric("Calls", MetricUnit.Count, permits.calls)
    metrics.add_metric("Throttles", MetricUnit.Count, permits.throttles)
    metrics.add_metric("Waited", MetricUnit.Seconds, permits.waited)
    if permits.has_rate:
        metrics.add_metric("Rate", MetricUnit.CountPerSecond, permits.state.per_second)
    metrics.flush_metrics()
