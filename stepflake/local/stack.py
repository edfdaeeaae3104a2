"""The stack on this machine: the real template, built and deployed into an embedded engine."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.catalog import read_catalog, read_workflows
from stepflake.local.build import build
from stepflake.local.checkout import (
    DEFAULT_NAME,
    exclusive,
    local_config,
    lock_file,
    project_root,
    state_directory,
)
from stepflake.local.deploy import Step, deploy
from stepflake.local.engine import REGION, Engine, Settings
from stepflake.stack import Stack, StackError


@dataclass(frozen=True)
class LocalStack:
    """What `up` deployed. `started`: whether `up` started the engine, or it ran already."""

    stack: Stack
    engine: Engine
    started: bool


def up(
    root: Path,
    name: str = DEFAULT_NAME,
    *,
    step: Step,
    port: int | None = None,
    parameters: Mapping[str, str] | None = None,
    settings: Settings | None = None,
) -> LocalStack:
    """Brings the local stack up: an engine, unless it runs, and the checkout's current code deployed into it.

    `parameters`: of the template, in addition to samconfig.toml's [local]. `settings`: of the engine, which
    otherwise starts with AWS's limits and no faults. Raises CatalogError before it starts anything;
    StackError or EngineError, after stopping the engine if it started it.
    """
    # An invalid remote function or input.json, once deployed, would fail every request.
    read_catalog(root / "lambdas" / "functions", diagnostics=True)
    read_workflows(root / "lambdas")
    state = state_directory(root, name)
    state.mkdir(parents=True, exist_ok=True)
    busy = f"Another `stepflake up` of the stack {name!r} is running; wait until it ends."
    with exclusive(lock_file(root, name), busy=busy):
        engine = _find_engine(state, name, port)
        started = engine is None
        with step("Building the Lambdas"):
            built = build(root)
        if engine is None:
            with step("Starting the engine"):
                engine = Engine.start(state, port=port)
        try:
            engine.configure(settings or Settings())
            stack = deploy(root, built, engine, parameters or {}, step)
        except BaseException:
            if started:
                engine.stop()
            raise
    return LocalStack(stack, engine, started)


def _find_engine(state: Path, name: str, port: int | None) -> Engine | None:
    """The engine that runs, if any. Raises StackError where it is on another port than `port`."""
    engine = Engine.find(state)
    if engine and port not in (None, engine.port):
        raise StackError(f"The stack {name!r} runs on port {engine.port}; `stepflake down` first to move it.")
    return engine


def down(root: Path, name: str = DEFAULT_NAME) -> bool:
    """Stops the local stack and removes its state. False where there was nothing to stop."""
    state = state_directory(root, name)
    if not state.exists():
        return False
    was_running = _stop(state)  # also while an `up` runs, which then fails
    with exclusive(lock_file(root, name)):
        was_running = _stop(state) or was_running
        shutil.rmtree(state)
    return was_running


def _stop(state: Path) -> bool:
    engine = Engine.find(state)
    if engine is None:
        return False
    # Tells an attached `up` that the engine is stopped on purpose.
    (state / "engine.json").unlink(missing_ok=True)
    engine.stop()
    return True


def find_local(name: str = DEFAULT_NAME, root: Path | None = None) -> Stack:
    """The local stack of this name, of the checkout `root`. Raises StackError where it does not run."""
    root = root or project_root()
    engine = find_local_engine(name, root)
    return Stack.describe(local_config(root)["stack_name"], REGION, endpoint=engine.url)


def find_local_engine(name: str = DEFAULT_NAME, root: Path | None = None) -> Engine:
    """The engine of the local stack of this name. Raises StackError where it does not run."""
    engine = Engine.find(state_directory(root or project_root(), name))
    if engine is None:
        option = "" if name == DEFAULT_NAME else f" --name {name}"
        raise StackError(
            f"The local stack {name!r} is not running; start it with: stepflake up --detach{option}"
        )
    return engine
