"""The answer of a service to one document: reused, or called for when its limit allows it."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from core.calls.permits import Permits
from core.calls.rates import Limit
from core.calls.report import report
from core.calls.reuse import FRESH_SECONDS, Reuse, digest
from core.catalog import CallOptions
from core.errors import ThrottleError, TransientError
from core.exact_json import dump_json
from core.patience import Patience


def answer_document(
    name: str, options: CallOptions, path: Path, document: Mapping[str, Any], call: Callable[[], str]
) -> str:
    """What a service makes of a document, as JSON text: kept, or from `call` when the limit allows it.

    Without a limit there is one attempt: the queue or the machine has further ones. Raises what `call`
    raises, and RateLimited.
    """
    reuse = Reuse.of("service", name, options, path)
    permits = Permits(Limit.of(options, name))
    key = digest(dump_json(document)) if reuse else ""
    slots = permits.slots()
    try:
        text = _kept(reuse, key)
        if text is not None:
            return text
        if slots:
            permits.wait_for(partial(slots.acquire, 1))
        patience = Patience()
        while True:
            leased_us = permits.wait(1, 1)
            text = _kept(reuse, key) if permits.waited > FRESH_SECONDS else None
            if text is not None:
                return text
            began = time.monotonic()
            try:
                text = call()
            except TransientError as error:
                if isinstance(error, ThrottleError):
                    permits.throttled(leased_us)
                if permits.limit is None:
                    raise
                patience.bear(error, is_paced=permits.has_rate)
                continue
            permits.called(time.monotonic() - began)
            if reuse:
                reuse.misses += 1
                reuse.save(key, text)
            return text
    finally:
        if slots:
            slots.release()
        permits.settle()
        if reuse:
            reuse.close()
        report(name, permits, reuse)


def _kept(reuse: Reuse | None, key: str) -> str | None:
    text = reuse.load([key]).get(key) if reuse else None
    if reuse and text is not None:
        reuse.hits += 1
    return text
