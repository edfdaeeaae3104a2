"""A deployed stack for tests of commands: its account is the AWS in memory, its code is the test's."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from stepflake import callers, reuse
from stepflake.callers import Caller, read_callers
from stepflake.stack import Stack
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.dynamodb import REUSE_TABLE, TABLE

STACK = Stack(
    "http://x",
    None,
    "us-east-1",
    "prod",
    {"Table": TABLE, "ReuseTable": REUSE_TABLE},
    {"Diagnostics": "false", "ReuseMegabytes": "1024"},
)

Write = Callable[..., None]


def connect(aws: FakeAws, monkeypatch: pytest.MonkeyPatch, folder: Path, **variables: str) -> Write:
    """`write(f='source', ...)`: lambdas/ has these functions, and these services where the source is one.

    `variables`: of the environment of the stack's Lambdas.
    """

    def write(**sources: str) -> None:
        for name, source in sources.items():
            kind = "services" if "@service" in source else "functions"
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / f"{name}.py").write_text(textwrap.dedent(source))

    def read(*, diagnostics: bool = True) -> list[Caller]:
        return read_callers(folder, diagnostics=diagnostics)

    for module in (callers, reuse):
        monkeypatch.setattr(module, "read_callers", read)
    monkeypatch.setattr(Stack, "client", lambda _self, name: aws.client(name))
    monkeypatch.setattr(Stack, "environment", lambda _self, _lambda: variables)
    return write
