"""What the author of a function or service asks for, made ready for one invocation.

Imported only where it is asked for: most functions have neither a limit nor results that are reused.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from core.catalog import CallOptions

if TYPE_CHECKING:
    from core.calls.permits import Permits
    from core.calls.reuse import Kind, Reuse


def find_permits(options: CallOptions, name: str) -> "Permits | None":
    """The permission for the calls of a function or service of this name; None where nothing is limited.

    Raises SettingError.
    """
    if not options.may_be_limited:
        return None
    from core.calls.permits import Permits
    from core.calls.rates import Limit

    limit = Limit.of(options, name)
    return Permits(limit) if limit else None


def find_reuse(kind: "Kind", name: str, options: CallOptions, path: Path) -> "Reuse | None":
    """The kept results of the function or service in this file; None where it keeps none.

    Raises SettingError.
    """
    if not options.may_be_reused:
        return None
    from core.calls.reuse import Reuse

    return Reuse.of(kind, name, options, path)
