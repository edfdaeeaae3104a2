"""What Amazon DynamoDB answers to updates and conditions: cases for all that stands in for it in tests."""

from typing import Any

Attributes = dict[str, Any]

KEY: Attributes = {"pk": {"S": "rate#comprehend"}, "sk": {"S": "slots"}}

# The item that the cases begin with.
ITEM: Attributes = {
    **KEY,
    "n": {"N": "7"},
    "label": {"S": "a"},
    "holders": {"M": {"one": {"M": {"slots": {"N": "2"}, "until": {"N": "100"}}}}},
}

# An update, its values, and what it changes of the item.
UPDATES: list[tuple[str, Attributes, Attributes]] = [
    ("SET n = n + :n, m = :m", {":n": {"N": "3"}, ":m": {"S": "b"}}, {"n": {"N": "10"}, "m": {"S": "b"}}),
    ("SET n = n - :n", {":n": {"N": "10"}}, {"n": {"N": "-3"}}),
    ("SET n = :n - n", {":n": {"N": "10"}}, {"n": {"N": "3"}}),
    ("SET m = n, n = :n", {":n": {"N": "0"}}, {"m": {"N": "7"}, "n": {"N": "0"}}),
    ("SET n = if_not_exists(n, :z) + :n", {":z": {"N": "0"}, ":n": {"N": "1"}}, {"n": {"N": "8"}}),
    ("SET m = if_not_exists(m, :z) + :n", {":z": {"N": "0"}, ":n": {"N": "1"}}, {"m": {"N": "1"}}),
    ("SET m = :n - if_not_exists(m, n)", {":n": {"N": "1"}}, {"m": {"N": "-6"}}),
    ("ADD n :n, m :n SET o = n", {":n": {"N": "1"}}, {"n": {"N": "8"}, "m": {"N": "1"}, "o": {"N": "7"}}),
    ("SET m = :m REMOVE absent", {":m": {"M": {}}}, {"m": {"M": {}}}),
    ("set m = :m", {":m": {"S": "b"}}, {"m": {"S": "b"}}),
]

# What is done to the map one after the other, the names and values for it, and the map then.
NESTED_UPDATES: list[tuple[str, dict[str, str], Attributes, Attributes]] = [
    (
        "SET holders.#owner = :new",
        {"#owner": "two.2"},
        {":new": {"M": {"slots": {"N": "1"}}}},
        {**ITEM["holders"]["M"], "two.2": {"M": {"slots": {"N": "1"}}}},
    ),
    (
        "SET holders.#owner.#until = :until",
        {"#owner": "two.2", "#until": "until"},
        {":until": {"N": "200"}},
        {**ITEM["holders"]["M"], "two.2": {"M": {"slots": {"N": "1"}, "until": {"N": "200"}}}},
    ),
    (
        "ADD holders.#owner.slots :one",
        {"#owner": "two.2"},
        {":one": {"N": "1"}},
        {**ITEM["holders"]["M"], "two.2": {"M": {"slots": {"N": "2"}, "until": {"N": "200"}}}},
    ),
    ("REMOVE holders.#owner", {"#owner": "two.2"}, {}, ITEM["holders"]["M"]),
    ("REMOVE holders.#owner", {"#owner": "two.2"}, {}, ITEM["holders"]["M"]),
]

# An update that is refused, its values, and a part of the message.
REFUSED_UPDATES: list[tuple[str, Attributes, str]] = [
    ("SET absent.a = :n", {":n": {"N": "1"}}, "document path"),
    ("SET n.a = :n", {":n": {"N": "1"}}, "document path"),
    ("SET holders.a.b = :n", {":n": {"N": "1"}}, "document path"),
    ("ADD absent.a :n", {":n": {"N": "1"}}, "document path"),
    ("REMOVE absent.a", {}, "document path"),
    ("REMOVE n.a", {}, "document path"),
    ("SET n = :n, n = :n", {":n": {"N": "1"}}, "overlap"),
    ("SET holders.a = :n REMOVE holders", {":n": {"N": "1"}}, "overlap"),
    ("SET n = :n SET m = :n", {":n": {"N": "1"}}, "used once"),
    ("SET pk = :n", {":n": {"S": "1"}}, "part of the key"),
    ("SET m = absent", {}, "does not exist"),
    ("SET m = absent + :n", {":n": {"N": "1"}}, "does not exist"),
    ("SET n = n + :n", {":n": {"S": "1"}}, "data type"),
    ("SET n = label - :n", {":n": {"N": "1"}}, "data type"),
    ("SET n = n + n + :n", {":n": {"N": "1"}}, "Syntax error"),
    ("ADD holders :n", {":n": {"N": "1"}}, "data type"),
    ("SET until = :n", {":n": {"N": "1"}}, "reserved"),
    ("SET holders.until = :n", {":n": {"N": "1"}}, "reserved"),
    ("SET n = :n", {":n": {"N": "1"}, ":m": {"N": "1"}}, "unused"),
    ("SET n = :next", {":next": {"N": "1"}, ":n": {"N": "1"}}, "unused"),
    ("n = :n", {":n": {"N": "1"}}, "Syntax error"),
    ("", {}, "can not be empty"),
]

CONDITION_NAMES = {"#one": "one", "#until": "until"}
CONDITION_VALUES: Attributes = {":seven": {"N": "7"}, ":one": {"N": "1"}}

# A condition with these names and values, and whether it holds.
CONDITIONS: list[tuple[str, bool]] = [
    ("n <= :seven AND n >= :seven", True),
    ("n > :one AND n <> :one", True),
    ("n < :seven OR n > :seven", False),
    ("n <> :seven", False),
    ("absent <> :seven", True),
    ("absent > :one", False),
    ("label > :one", False),
    ("n BETWEEN :one AND :seven", True),
    ("n BETWEEN :one AND :one", False),
    ("n BETWEEN :one AND :seven AND n < :one", False),
    ("NOT n < :one", True),
    ("NOT absent > :one", True),
    ("NOT (n > :one AND attribute_exists(holders.#one))", False),
    ("NOT n < :one AND NOT n = :seven", False),
    ("attribute_exists(holders.#one)", True),
    ("attribute_not_exists(holders.#one.slots)", False),
    ("attribute_exists(holders.absent.slots)", False),
    ("attribute_not_exists(absent.#one)", True),
    ("holders.#one.slots < :seven", True),
    ("holders.#one.#until > n", True),
]


def used(condition: str, given: dict[str, Any]) -> dict[str, Any]:
    """The names or values that are in a condition."""
    return {name: value for name, value in given.items() if name in condition}
