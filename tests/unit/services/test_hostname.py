"""The service `hostname`: names by RFC 1123."""

import hashlib
from typing import Any

import pytest

from services.hostname import hostname


@pytest.mark.parametrize(
    ("given", "name", "labels"),
    [
        ("host1", "host1", 1),
        ("  Host1.Example.COM. ", "host1.example.com", 3),
        ("3com.com", "3com.com", 2),
        ("7", "7", 1),
        ("xn--wgv71a.jp", "xn--wgv71a.jp", 2),
        ("a" * 63 + ".de", "a" * 63 + ".de", 2),
        (".".join(["a" * 49] * 5) + ".de", ".".join(["a" * 49] * 5) + ".de", 6),
    ],
)
def test_a_name_is_normalized(given: str, name: str, labels: int) -> None:
    assert hostname({"name": given}) == {
        "name": name,
        "labels": labels,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("", "label 1"),
        (".", "label 1"),
        ("a..b", "label 2"),
        ("a b", "label 1"),
        ("-a.de", "label 1"),
        ("a-.de", "label 1"),
        ("under_score.de", "label 1"),
        ("straße.de", "label 1"),
        ("a" * 64 + ".de", "label 1"),
        (".".join(["a" * 62] * 5), "314 characters"),
        ("192.168.0.1", "last label is a number"),
    ],
)
def test_an_invalid_host_name_is_refused_with_the_reason(given: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        hostname({"name": given})


@pytest.mark.parametrize("document", [{}, {"name": None}, {"name": 7}])
def test_a_document_without_a_name_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="name is missing"):
        hostname(document)
