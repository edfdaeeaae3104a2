"""What the calls of an invocation cost and spared: one line in the log, and CloudWatch metrics."""

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from core.calls.permits import Permits
from core.calls.reuse import Reuse

logger = Logger(child=True)

NAMESPACE = "stepflake"


def report(name: str, permits: Permits, reuse: Reuse | None, *, equal_rows: int = 0) -> None:
    """Logs and counts the calls of a function or service, where it has a limit or spared some.

    `equal_rows`: rows that got the answer of an equal one. Metrics are written to the log in CloudWatch's
    embedded metric format.
    """
    if not (reuse or permits.limit or equal_rows):
        return
    counts = {"calls": permits.calls, "throttles": permits.throttles, "waited": round(permits.waited, 3)}
    if reuse:
        counts |= {"reuse_hits": reuse.hits, "reuse_misses": reuse.misses, "reuse_lost": reuse.lost}
    logger.info("calls", extra={**counts, "equal_rows": equal_rows})
    metrics = EphemeralMetrics(namespace=NAMESPACE)
    if permits.limit and permits.state:
        metrics.add_dimension("limit", permits.limit.name)
        metrics.add_metric("Calls", MetricUnit.Count, permits.calls)
        metrics.add_metric("Throttles", MetricUnit.Count, permits.throttles)
        metrics.add_metric("Waited", MetricUnit.Seconds, permits.waited)
        if permits.has_rate:
            metrics.add_metric("Rate", MetricUnit.CountPerSecond, permits.state.per_second)
        metrics.flush_metrics()
    if reuse or equal_rows:
        metrics = EphemeralMetrics(namespace=NAMESPACE)
        metrics.add_dimension("function", name)
        metrics.add_metric("EqualRows", MetricUnit.Count, equal_rows)
        metrics.add_metric("ReuseHits", MetricUnit.Count, reuse.hits if reuse else 0)
        metrics.add_metric("ReuseMisses", MetricUnit.Count, reuse.misses if reuse else 0)
        metrics.flush_metrics()
