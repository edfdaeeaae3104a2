"""The roles that AWS's services act with: whether a service may assume one, and what it may do then.

Policies are evaluated by MiniStack, as for requests over HTTP: inline and managed ones, Deny, conditions,
the permissions boundary, and the policy of the resource. AWS's services call each other over TLS.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# How a denial spells the action, where that is not as IAM spells it.
_SPELLINGS = {"sqs:SendMessage": "sqs:sendmessage", "sns:Publish": "SNS:Publish"}


@dataclass(frozen=True)
class ServiceRole:
    """A role as a service has it.

    `service`: its principal, such as states.amazonaws.com. `source`: the ARN of what it acts for, such as
    that of a state machine.
    """

    arn: str
    service: str
    source: str

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2]

    def can_be_assumed(self) -> bool:
        """Whether the role exists and its trust policy names the service, globally or with its region."""
        from ministack.core import iam_evaluator, responses  # type: ignore[import-untyped]
        from ministack.services import iam  # type: ignore[import-untyped]

        role = iam._roles.get(self.name)
        if role is None or role["Arn"] != self.arn:
            return False
        region, account = responses.get_region(), responses.get_account_id()
        prefix, _, suffix = self.service.partition(".")
        context = iam_evaluator.EvalContext(
            principal_arn=self.service,
            principal_type="Service",
            principal_account="",
            action="sts:AssumeRole",
            resource_arn=self.arn,
            region=region,
            service_context={"aws:sourceaccount": account, "aws:sourcearn": self.source},
        )
        return any(
            iam_evaluator.evaluate_resource_policy(
                role["AssumeRolePolicyDocument"], context, service=principal
            ).decision
            == "Allow"
            for principal in (self.service, f"{prefix}.{region}.{suffix}")
        )

    def denial(self, action: str, resource: str, context: Mapping[str, Any] | None = None) -> str | None:
        """Why the role may not do this, in AWS's words, or None. `context`: condition keys of the request.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
        """
        from ministack.core import iam_actions, iam_evaluator, responses

        service = action.partition(":")[0]
        with self.acting():
            denied = iam_evaluator.enforce(
                self._access_key(), action, service, responses.get_region(), resource, context
            )
        if denied is None:
            return None
        if getattr(denied, "resource_policy_arn", ""):
            return str(iam_actions._resource_policy_denial(service, action, self._session_arn(), resource))
        return str(
            iam_actions.identity_denial_message(
                _SPELLINGS.get(action, action),
                self._session_arn(),
                resource,
                getattr(denied, "decision", "") == "Deny",
            )
        )

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Within it, resources' policies see this role as the caller, over TLS."""
        from ministack.core import iam_evaluator

        caller = iam_evaluator._request_caller_arn.set(self._session_arn())
        origin = iam_evaluator._request_origin.set((self.service, True))
        try:
            yield
        finally:
            iam_evaluator._request_origin.reset(origin)
            iam_evaluator._request_caller_arn.reset(caller)

    def _digest(self) -> str:
        return hashlib.sha256(f"{self.service}/{self.source}/{self.arn}".encode()).hexdigest()

    def _session_arn(self) -> str:
        # AWS names the session of a state machine with 32 letters.
        session = "".join(chr(ord("a") + int(digit, 16)) for digit in self._digest()[:32])
        return f"arn:aws:sts::{self.arn.split(':')[4]}:assumed-role/{self.name}/{session}"

    def _access_key(self) -> str:
        """The key of the role's session, which MiniStack evaluates; made where there is none yet."""
        from ministack.services import iam, sts

        digest = self._digest()
        key = f"ASIA{digest[:16].upper()}"
        if key not in sts._sessions:
            role = iam._roles.get(self.name) or {}
            arn = self._session_arn()
            sts.register_session(
                key,
                {
                    "Arn": arn,
                    "UserId": f"{role.get('RoleId', '')}:{arn.rpartition('/')[2]}",
                    "SecretAccessKey": digest,
                    "SessionToken": digest,
                },
            )
        return key
