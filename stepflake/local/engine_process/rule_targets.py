"""State machines that are targets of EventBridge's rules: started with the role of the target.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-identity-based.html
"""

import logging
from collections.abc import Callable
from typing import Any

from stepflake.local.engine_process.roles import ServiceRole

_EVENTS_PRINCIPAL = "events.amazonaws.com"

logger = logging.getLogger(__name__)


def install() -> None:
    """Puts this in front of MiniStack's function for targets."""
    from ministack.services import eventbridge  # type: ignore[import-untyped]

    eventbridge._invoke_target = _invoke_target(eventbridge._invoke_target)


def _invoke_target(invoke: Callable[..., None]) -> Callable[..., None]:
    def invoke_target(target: dict[str, Any], event: Any, rule: dict[str, Any], view: Any = None) -> None:
        machine = target.get("Arn", "")
        if machine.startswith("arn:aws:states:") and (message := _refusal(target, rule)):
            logger.warning("EventBridge does not start %s: %s", machine, message)
        else:
            invoke(target, event, rule, view)

    return invoke_target


def _refusal(target: dict[str, Any], rule: dict[str, Any]) -> str | None:
    from ministack import app  # type: ignore[import-untyped]

    if not app.AUTH:
        return None
    if not target.get("RoleArn"):
        return "the target has no RoleArn"
    role = ServiceRole(target["RoleArn"], _EVENTS_PRINCIPAL, rule["Arn"])
    if not role.can_be_assumed():
        return f"{_EVENTS_PRINCIPAL} may not assume {role.arn}"
    return role.denial("states:StartExecution", target["Arn"])
