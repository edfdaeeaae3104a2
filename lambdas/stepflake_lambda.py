"""What the authors of remote functions and of services import: the only stable API of lambdas/."""

from collections.abc import Callable
from typing import Any, TypeVar

from core.catalog import DEFAULT_CHUNK_ROWS, OnError
from core.errors import TransientError

__all__ = ["TransientError", "remote_function"]

Function = TypeVar("Function", bound=Callable[..., Any])


def remote_function(
    *,
    vectorized: bool = False,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    max_batch_rows: int | None = None,
    concurrency: int = 1,
    on_error: OnError = "fail",
    diagnostic: bool = False,
    sql_names: tuple[str, ...] | None = None,
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
    concurrency:    rows that run in parallel, in threads; for functions that call another service.
    on_error:       what an error in a row does: "fail" the batch, answer "null", or answer an "object"
                    {"error": type, "cause": message}. A TransientError is retried, whatever this says.
    diagnostic:     deployed only where the template's Diagnostics parameter is true.
    sql_names:      the names it has in SQL, if not only its own.
    """

    def mark(function: Function) -> Function:
        return function

    return mark
