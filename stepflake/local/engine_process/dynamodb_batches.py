"""DynamoDB's batches within the rates of the partitions that their keys name, and within AWS's sizes.

What exceeds the rate of its partition comes back as unprocessed, and the rest is done. Where nothing can be
done, the batch is throttled.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html#Programming.Errors.BatchOperations
"""

import json
from collections.abc import Callable
from typing import Any

from stepflake.local.engine_process import requests
from stepflake.local.engine_process.account import ACCOUNT

Document = dict[str, Any]
Handle = Callable[[Document], requests.Answer]

# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html
_MAX_KEYS = 100
_MAX_ANSWER_BYTES = 16 << 20
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
_MAX_WRITES = 25


def install() -> None:
    """Puts this in front of MiniStack's two batches."""
    from ministack.services import dynamodb  # type: ignore[import-untyped]

    dynamodb._batch_get_item = _batch_get_item(dynamodb._batch_get_item)
    dynamodb._batch_write_item = _batch_write_item(dynamodb._batch_write_item)


def _batch_get_item(get: Handle) -> Handle:
    def batch_get_item(data: Document) -> requests.Answer:
        status, headers, body = get(data)
        if status != 200:  # noqa: PLR2004 - HTTP
            return status, headers, body
        tables: dict[str, Document] = data["RequestItems"]
        keys = [(table, key) for table, request in tables.items() for key in request["Keys"]]
        if len(keys) > _MAX_KEYS:  # MiniStack allows so many of each table
            message = "Too many items requested for the BatchGetItem call"
            return requests.refused("dynamodb", ("ValidationException", 400, message))
        found: dict[str, list[Document]] = {table: [] for table in tables}
        left: dict[str, Document] = {}
        size = 0
        for table, key in keys:
            charge = requests.read_charge(table, key, consistent=bool(tables[table].get("ConsistentRead")))
            request = {**tables[table], "Keys": [key]}
            answer = get({"RequestItems": {table: request}})[2]
            if size + len(answer) > _MAX_ANSWER_BYTES or not ACCOUNT.allows(*charge):
                left.setdefault(table, {**request, "Keys": []})["Keys"].append(key)
                continue
            size += len(answer)
            requests.charge_reads([charge], answer)
            found[table] += json.loads(answer)["Responses"][table]
        if not size:
            return requests.refused("dynamodb", requests.throttle("dynamodb"))
        return status, headers, json.dumps({"Responses": found, "UnprocessedKeys": left}).encode()

    return batch_get_item


def _batch_write_item(write: Handle) -> Handle:
    def batch_write_item(data: Document) -> requests.Answer:
        try:
            writes = [
                (table, request, _written(request))
                for table, asked in data["RequestItems"].items()
                for request in asked
            ]
        except (AttributeError, KeyError, TypeError):
            return write(data)  # which says what is wrong with it
        keys = {f"{table}/{written.get('pk')}/{written.get('sk')}" for table, _, written in writes}
        # A batch that is not valid is refused as a whole: its parts may be valid.
        if len(writes) > _MAX_WRITES or len(keys) < len(writes):
            return write(data)
        done: dict[str, list[Document]] = {}
        left: dict[str, list[Document]] = {}
        for table, request, written in writes:
            is_allowed = ACCOUNT.allows(*requests.write_charge(table, written, len(json.dumps(written))))
            (done if is_allowed else left).setdefault(table, []).append(request)
        if not done:
            return requests.refused("dynamodb", requests.throttle("dynamodb"))
        status, headers, body = write({**data, "RequestItems": done})
        if status == 200 and left:  # noqa: PLR2004 - HTTP
            body = json.dumps({**json.loads(body), "UnprocessedItems": left}).encode()
        return status, headers, body

    return batch_write_item


def _written(request: Document) -> Document:
    """The item that a request puts, or the key that it deletes."""
    put = request.get("PutRequest")
    written: Document = put["Item"] if put else request["DeleteRequest"]["Key"]
    return written
