import hashlib
import re
from typing import Any

# https://www.rfc-editor.org/rfc/rfc1123#section-2.1, with the lengths of RFC 1035 section 2.3.4
MAX_NAME = 253
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def hostname(document: dict[str, Any]) -> dict[str, Any]:
    """A host name normalized: lower case, no final dot, checked by RFC 1123; and its hash, to shard by.

    Raises TypeError where there is no `name`, ValueError for other text, such as an IPv4 address.
    """
    given = document.get("name")
    if not isinstance(given, str):
        raise TypeError("name is missing, or not a string")
    name = given.strip().lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_NAME:
        raise ValueError(f"the name has {len(name)} characters; a host name has at most {MAX_NAME}")
    for number, label in enumerate(labels, 1):
        if not LABEL.fullmatch(label):
            raise ValueError(f"label {number} of the name is not 1 to 63 letters, digits and inner hyphens")
    if labels[-1].isdigit() and len(labels) > 1:
        raise ValueError("its last label is a number, as in an IP address; a host name ends in letters")
    return {"name": name, "labels": len(labels), "sha256": hashlib.sha256(name.encode("ascii")).hexdigest()}
