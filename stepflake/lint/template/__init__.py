"""The project's rules for template.yaml: what cfn-lint does not ask for.

Logs that expire, permissions that name their resources, queues with a dead-letter queue, data that only its
owner reads. Each rule is a function from a Template to its findings.
"""

from collections.abc import Callable, Iterator

from stepflake.lint.finding import Finding
from stepflake.lint.template import access, events, permissions, storage, telemetry
from stepflake.lint.template.document import Template

Rule = Callable[[Template], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    telemetry.logs_expire,
    telemetry.lambdas_are_described_and_traced,
    telemetry.machines_are_traced_and_logged,
    permissions.permissions_name_their_resources,
    permissions.permissions_are_for_this_stack,
    permissions.permissions_name_their_items,
    permissions.identities_have_no_aws_policies,
    events.queues_have_dead_letter_queues,
    events.dead_letter_queues_are_watched,
    events.failed_events_of_functions_are_kept,
    events.failed_events_of_other_sources_are_kept,
    storage.buckets_are_private_and_expire,
    storage.tables_are_encrypted_and_expire,
    storage.queues_are_encrypted,
    storage.what_is_stored_can_have_a_key,
    storage.what_is_stored_outlives_the_stack,
    storage.plain_http_is_refused,
    access.apis_require_signatures,
    access.parameters_are_described,
)


def lint_template(template: Template) -> list[Finding]:
    """Check a template by all rules. Nothing found gives []."""
    return [finding for rule in RULES for finding in rule(template)]
