"""The environment of the Lambdas, read once into one typed object."""

import os
from dataclasses import dataclass
from functools import cache


class SettingError(Exception):
    """An environment variable that the template should have set is missing or malformed."""


@dataclass(frozen=True)
class Settings:
    """What template.yaml gives to every Lambda.

    `state_machine_prefix`: the ARN of each state machine of the stack without its short name, so that
    `state_machine_prefix + "batch"` is the batch machine's. Waits are in seconds. `rows_in_inputs`: whether a
    small batch's rows are in its execution's input.
    """

    bucket: str
    table: str
    state_machine_prefix: str
    post_wait_seconds: float
    get_wait_seconds: float
    rows_in_inputs: bool

    def state_machine_arn(self, name: str) -> str:
        """The ARN of the machine whose definition is statemachines/{name}.asl.json."""
        return self.state_machine_prefix + name


@cache
def settings() -> Settings:
    """The settings of this execution environment. Raises SettingError."""
    return Settings(
        bucket=setting("BUCKET"),
        table=setting("TABLE"),
        state_machine_prefix=setting("STATE_MACHINE_PREFIX"),
        post_wait_seconds=_seconds("POST_WAIT_SECONDS"),
        get_wait_seconds=_seconds("GET_WAIT_SECONDS"),
        rows_in_inputs=setting("ROWS_IN_INPUTS") == "true",
    )


def setting(name: str) -> str:
    """One variable of the environment, as text; for those that few Lambdas have. Raises SettingError."""
    value = os.environ.get(name)
    if not value:
        raise SettingError(f"the environment variable {name} is not set; template.yaml sets it")
    return value


def _seconds(name: str) -> float:
    value = setting(name)
    try:
        return float(value)
    except ValueError:
        raise SettingError(f"the environment variable {name} is {value!r}, not a number of seconds") from None
