"""What the authors of remote functions and of services import: the only stable API of lambdas/."""

from collections.abc import Callable
from typing import Any, TypeVar

from core.catalog import DEFAULT_CHUNK_ROWS, NONE, OnError
from core.errors import ThrottleError, TransientError

__all__ = ["ThrottleError", "TransientError", "remote_function", "service"]

Function = TypeVar("Function", bound=Callable[..., Any])


def remote_function(
    *,
    vectorized: bool = False,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    max_batch_rows: int | None = None,
    rows_per_call: int | None = None,
    concurrency: int = 1,
    on_error: OnError = "fail",
    diagnostic: bool = False,
    sql_names: tuple[str, ...] | None = None,
    deduplicate: bool = False,
    rate_limit: str = NONE,
    max_concurrency: int | None = None,
    calls: str | None = None,
    reuse: str = NONE,
    version: str | None = None,
) -> Callable[[Function], Function]:
    """Makes the function of a file in `functions/` callable from SQL. The function itself stays as it is.

    Its type hints are its SQL signature (core.catalog.SNOWFLAKE_TYPES); all arguments must be literals,
    as `core.catalog` reads and checks them without running the file.

    vectorized:     it takes one list for each parameter and returns a list, an item for each row; an item
                    that is an exception is that row's error. Otherwise it is called once for each row.
    chunk_rows:     rows that one `process` call handles; what is finished is not repeated by a retry. A batch
                    has at most 400 chunks: one with more rows has larger ones.
    max_batch_rows: the most rows that Snowflake sends in a request (MAX_BATCH_ROWS in SQL), for wide rows: a
                    request holds about 4.6 MB of JSON. Left out, Snowflake chooses.
    rows_per_call:  the most rows of one call of a vectorized function; left out, those of the chunk.
    concurrency:    calls that run in parallel, in threads; for functions that call another service.
    on_error:       what an error in a row does: "fail" the batch, answer "null", or answer an "object"
                    {"error": type, "cause": message}. A TransientError is retried, whatever this says.
    diagnostic:     deployed only where the template's Diagnostics parameter is true.
    sql_names:      the names it has in SQL, if not only its own.
    deduplicate:    rows with equal arguments are called once for each chunk.
    rate_limit:     calls of the function, in all batches, queries and workflows of the stack together:
                    "10/second", "600/minute", "5000/hour". "${NAME}" is a variable of the Lambda's
                    environment. A call waits for it. If the called service refuses one for having too many
                    (HTTP's 429, AWS's throttles, a ThrottleError), the rate is lowered for a while, and the
                    call is repeated.
    max_concurrency: the most calls at the same time, in the whole stack.
    calls:          the name of the limit, which all that have the same name share: mostly that of the service
                    that is called. Left out, it is the function's name.
    reuse:          how long a result is kept for all later calls with equal arguments: "7 days", "12 hours",
                    "30 minutes". For functions whose result depends on the arguments and the code only.
                    Equal rows of a chunk are called once, too.
    version:        a change of it, of the function's code or of what that imports of lambdas/ starts afresh.
    """

    def mark(function: Function) -> Function:
        return function

    return mark


def service(
    *,
    rate_limit: str = NONE,
    max_concurrency: int | None = None,
    calls: str | None = None,
    reuse: str = NONE,
    version: str | None = None,
) -> Callable[[Function], Function]:
    """Says how the service of a file in `services/` is called. Without it, nothing is limited or reused.

    The arguments are those of `remote_function`, and literals too. What is reused is the result for an equal
    document.
    """

    def mark(function: Function) -> Function:
        return function

    return mark
