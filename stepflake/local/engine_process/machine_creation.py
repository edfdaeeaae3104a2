"""What Step Functions checks of a machine's role when the machine is created or updated.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_CreateStateMachine.html
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from stepflake.local.engine_process.roles import ServiceRole
from stepflake.local.engine_process.task_calls import NOT_ASSUMED, STATES_PRINCIPAL, Document

_SYNC = "arn:aws:states:::states:startExecution.sync"

# The rule by which Step Functions learns of the end of executions that a Task waits for, made with the role.
# https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html
_MANAGED_RULE = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
_MANAGED_RULE_ACTIONS = ("events:PutRule", "events:PutTargets", "events:DescribeRule")

# https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
_LOG_ACTIONS = (
    "logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
)  # fmt: skip


def install() -> None:
    """Puts these checks in front of MiniStack's functions, for the API and for CloudFormation."""
    from ministack.services import stepfunctions  # type: ignore[import-untyped]
    from ministack.services.cloudformation import provisioners  # type: ignore[import-untyped]

    stepfunctions._create_state_machine = _checked(stepfunctions._create_state_machine)
    stepfunctions._update_state_machine = _checked(stepfunctions._update_state_machine)
    resource = provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachine"]
    provisioners._sfn_state_machine_create = _checked_create(provisioners._sfn_state_machine_create)
    resource["create"] = provisioners._sfn_state_machine_create


def _checked(change: Callable[[Document], Any]) -> Callable[[Document], Any]:
    def checked(data: Document) -> Any:
        from ministack.services import stepfunctions

        machine = stepfunctions._state_machines.get(data.get("stateMachineArn")) or {}
        if message := _refusal({**machine, **data}):
            return stepfunctions.error_response_json("AccessDeniedException", message, 400)
        return change(data)

    return checked


def _checked_create(create: Callable[[str, Document, str], Any]) -> Callable[[str, Document, str], Any]:
    def checked(logical_id: str, properties: Document, stack_name: str) -> Any:
        from ministack.services import stepfunctions
        from ministack.services.cloudformation import provisioners

        logging = properties.get("LoggingConfiguration") or {}
        data = {
            "name": properties.get("StateMachineName", logical_id),
            "roleArn": properties.get("RoleArn"),
            "definition": provisioners._sfn_definition(properties),
            "loggingConfiguration": {f"{key[0].lower()}{key[1:]}": value for key, value in logging.items()},
        }
        if message := _refusal(data):
            refused = stepfunctions.error_response_json("AccessDeniedException", message, 400)
            raise provisioners._sfn_service_error(refused)
        return create(logical_id, properties, stack_name)

    return checked


def _refusal(machine: Document) -> str | None:
    """Why a machine is refused, in AWS's words; None where it is not, or where MiniStack refuses it."""
    from ministack import app  # type: ignore[import-untyped]
    from ministack.core import responses  # type: ignore[import-untyped]

    try:
        definition = json.loads(machine.get("definition", ""))
    except ValueError:
        return None
    if not app.AUTH or not machine.get("roleArn"):
        return None
    region, account = responses.get_region(), responses.get_account_id()
    arn = f"arn:aws:states:{region}:{account}:stateMachine:{machine.get('name')}"
    role = ServiceRole(machine["roleArn"], STATES_PRINCIPAL, arn)
    if not role.can_be_assumed():
        return NOT_ASSUMED
    rule = f"arn:aws:events:{region}:{account}:rule/{_MANAGED_RULE}"
    waits = any(resource.startswith(_SYNC) for resource in _resources(definition))
    if waits and any(role.denial(action, rule) for action in _MANAGED_RULE_ACTIONS):
        return f"'{role.arn}' is not authorized to create managed-rule."
    logs = (machine.get("loggingConfiguration") or {}).get("level", "OFF") != "OFF"
    if logs and any(role.denial(action, "*") for action in _LOG_ACTIONS):
        return "The state machine IAM Role is not authorized to access the Log Destination"
    return None


def _resources(definition: Any) -> Iterator[str]:
    """What the Tasks of a definition call, at any depth."""
    if isinstance(definition, dict):
        if isinstance(definition.get("Resource"), str):
            yield definition["Resource"]
        definition = list(definition.values())
    if isinstance(definition, list):
        for value in definition:
            yield from _resources(value)
