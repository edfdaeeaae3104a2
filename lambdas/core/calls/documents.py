"""The answer of a service to one document: reused, or called for when its limit allows it."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.calls.options import find_permits, find_reuse
from core.calls.report import report
from core.catalog import CallOptions
from core.errors import ThrottleError, TransientError
from core.exact_json import dump_json
from core.patience import Patience

if TYPE_CHECKING:
    from core.calls.permits import Permits
    from core.calls.reuse import Reuse


def answer_document(
    name: str, options: CallOptions, path: Path, document: Mapping[str, Any], call: Callable[[], str]
) -> str:
    """What a service makes of a document, as JSON text: kept, or from `call` when the limit allows it.

    Without a limit there is one attempt: the queue or the machine has further ones. Raises what `call`
    raises, and RateLimited.
    """
    permits, reuse = find_permits(options, name), find_reuse("service", name, options, path)
    try:
        return _Document(document, call, permits, reuse).answer()
    finally:
        if permits:
            permits.settle()
        if reuse:
            reuse.close()
        report(name, permits, reuse)


class _Document:
    """One document, and what makes its answer."""

    def __init__(
        self,
        document: Mapping[str, Any],
        call: Callable[[], str],
        permits: "Permits | None",
        reuse: "Reuse | None",
    ) -> None:
        self._call = call
        self._permits = permits
        self._reuse = reuse
        self._key = reuse.digest(dump_json(document)) if reuse else ""
        self._looked_at = time.monotonic()

    def answer(self) -> str:
        text = self._kept()
        if text is None:
            text = self._answer_limited(self._permits) if self._permits else self._answer()
        return text

    def _kept(self) -> str | None:
        if self._reuse is None:
            return None
        text = self._reuse.load([self._key]).get(self._key)
        self._looked_at = time.monotonic()
        if text is not None:
            self._reuse.count(hits=1)
        return text

    def _answer_limited(self, permits: "Permits") -> str:
        slots = permits.slots()
        patience = Patience()
        try:
            if slots:
                permits.wait_for(partial(slots.acquire, 1))
            while True:
                permits.wait(1, 1)
                # While it waited, another worker may have called for an equal document.
                text = self._kept() if self._reuse and self._reuse.is_stale(self._looked_at) else None
                if text is not None:
                    return text
                try:
                    return self._answer_counted(permits)
                except TransientError as error:
                    patience.bear(error, is_paced=permits.has_rate)
        finally:
            if slots:
                slots.release()

    def _answer_counted(self, permits: "Permits") -> str:
        began = time.monotonic()
        try:
            text = self._answer()
        except ThrottleError:
            permits.throttled()
            raise
        except Exception:
            permits.called(time.monotonic() - began)
            raise
        permits.called(time.monotonic() - began)
        return text

    def _answer(self) -> str:
        text = self._call()
        if self._reuse:
            self._reuse.count(misses=1)
            self._reuse.save(self._key, text)
        return text
