"""The checkout that local stacks are built from, and the files that they keep in it."""

import fcntl
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepflake.stack import StackError

DEFAULT_NAME = "local"


def project_root() -> Path:
    """The checkout that contains the current directory, or else the one that this was installed from."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "template.yaml").exists() and (folder / "samconfig.toml").exists():
            return folder
    return Path(__file__).parents[2]


def state_directory(root: Path, name: str) -> Path:
    """Where the local stack of this name keeps its state. Raises StackError for a name that can't be one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise StackError(f"{name!r} can't name a local stack: use up to 40 of a-z, 0-9 and -, no - first.")
    return root.resolve() / ".stepflake" / name


def local_names(root: Path) -> list[str]:
    """The names of the local stacks that have state in this checkout, whether they run or not."""
    return sorted(path.name for path in root.glob(".stepflake/[!.]*/"))


def cache_directory(root: Path) -> Path:
    return root.resolve() / ".stepflake" / ".cache"


def lock_file(root: Path, name: str) -> Path:
    return cache_directory(root) / "locks" / name


def local_config(root: Path) -> dict[str, Any]:
    config = tomllib.loads((root / "samconfig.toml").read_text())
    settings: dict[str, Any] = config["local"]["deploy"]["parameters"]
    return settings


@contextmanager
def exclusive(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Holds the lock file `path`. Where another process does: waits, or raises StackError(busy)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise StackError(busy) from None
        yield
