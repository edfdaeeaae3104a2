"""What the commands print: results on stdout, progress on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

console = Console(stderr=True)

# Results go to stdout; in a pipe or a file their lines are not wrapped.
output = Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=True, highlight=False)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Shows `title` while the block runs, and afterwards how long it took or that it failed."""
    start = time.monotonic()
    mark, style = "x", "red"
    try:
        if console.is_terminal:
            with console.status(f"{escape(title)} ..."):
                yield
        else:
            console.print(f"  {title} ...", highlight=False, markup=False)
            yield
        mark, style = "+", "green"
    finally:
        seconds = time.monotonic() - start
        console.print(f"[{style}]{mark}[/] {escape(title)} [dim]{seconds:.1f} s[/]", highlight=False)
