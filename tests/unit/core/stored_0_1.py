"""Documents as version 0.1 stored them: made by its code once, and not changed since.

Items have DynamoDB's types; the texts are what is in S3, in messages and in the inputs of executions.
"""

from typing import Any

Item = dict[str, dict[str, Any]]


# fan_out: tasks 0 to 3 of the run `r`, of which two workers died on the first.
TASKS: dict[str, Item] = {
    "running": {
        "pk": {"S": "task#r#0"},
        "sk": {"S": "000000"},
        "status": {"S": "running"},
        "round": {"S": "e/0"},
        "owner": {"S": "295de38852594e508acafd74856bdcef"},
        "lease_until": {"N": "1763812800"},
        "deaths": {"N": "2"},
        "result": {"S": ""},
        "error": {"S": ""},
        "cause": {"S": ""},
        "expires_at": {"N": "1804149300"},
    },
    "waiting": {
        "pk": {"S": "task#r#0"},
        "sk": {"S": "000001"},
        "status": {"S": "waiting"},
        "round": {"S": "e/0"},
        "owner": {"S": "e9f1dee2a4c74b79bdd913bf347ee148"},
        "lease_until": {"N": "1763812800"},
        "deaths": {"N": "0"},
        "result": {"S": ""},
        "error": {"S": ""},
        "cause": {"S": ""},
        "expires_at": {"N": "1804149300"},
    },
    "done": {
        "pk": {"S": "task#r#0"},
        "sk": {"S": "000002"},
        "status": {"S": "done"},
        "round": {"S": "e/0"},
        "owner": {"S": "76f4602d0daa44c884584faf2f795cc8"},
        "lease_until": {"N": "1763812800"},
        "deaths": {"N": "0"},
        "result": {"S": '{"name":"host2","weight":1.10}'},
        "error": {"S": ""},
        "cause": {"S": ""},
        "expires_at": {"N": "1804149300"},
    },
    "failed": {
        "pk": {"S": "task#r#0"},
        "sk": {"S": "000003"},
        "status": {"S": "failed"},
        "round": {"S": "e/0"},
        "owner": {"S": "6597a561e3b142128c0a17d5849dc61d"},
        "lease_until": {"N": "1763812800"},
        "deaths": {"N": "0"},
        "result": {"S": ""},
        "error": {"S": "ServiceError"},
        "cause": {"S": "hostname: ValueError: no"},
        "expires_at": {"N": "1804149300"},
    },
}

# fan_out: what its machine puts into the queue for task 2.
TASK_MESSAGE = (
    '{"run_id":"r","number":2,"round":"e/0","service":"hostname","token":"AQCEAAAAKgAAAAMAAAAAAAAAAW+/="}'
)

# ingest: the locks of two contents of one object, of which the second was ingested.
LOCK_HELD: Item = {
    "pk": {"S": "object#bucket/ingest/echo/日本.csv"},
    "sk": {"S": "content#0123456789abcdef0123456789abcdef"},
    "state": {"S": "held"},
    "lock_owner": {"S": "5a1c9e02-run"},
    "run_id": {"S": "5a1c9e02-run"},
    "lease_until": {"N": "1763812800"},
    "renewals": {"N": "3"},
    "expires_at": {"N": "1804149300"},
}
LOCK_DONE: Item = {
    "pk": {"S": "object#bucket/ingest/echo/日本.csv"},
    "sk": {"S": "content#fedcba9876543210fedcba9876543210.v1"},
    "state": {"S": "done"},
    "lock_owner": {"S": "7b2d0f13-run"},
    "run_id": {"S": "7b2d0f13-run"},
    "lease_until": {"N": "1763812800"},
    "renewals": {"N": "1"},
    "result": {
        "S": '{"outcome": "processed", "bucket": "bucket", "key": "ingest/echo/日本.csv", '
        '"etag": "fedcba9876543210fedcba9876543210", "version_id": "v1", "content_type": "text/csv", '
        '"bytes": 22, "function": "echo", "rows": 2, '
        '"output": "ingested/echo/日本.csv/fedcba9876543210fedcba9876543210.v1.jsonl"}'
    },
    "expires_at": {"N": "1804149300"},
}

# etl: the run `r` after `extract`: its batch of records, the checkpoint's body, and the checkpoint's record.
BATCH_KEY = "runs/r/extract/2dd9c914680932f58f01d5dee97a4c0a08c7230c2a94d351e30a007929862110.jsonl.gz"
BATCH_LINES = (
    '{"source":"datasets/sales/a.csv","line":2,"values":{"id":"007","amount":"1.10","day":"2026-11-22"}}\n'
    '{"source":"datasets/sales/b.jsonl","line":1,"values":{"id":8,"amount":12345678901234567890.10}}\n'
    '{"source":"datasets/sales/b.jsonl","line":2,"reason":"not JSON: Expecting property name enclosed in '
    'double quotes or \'}\' at column 2","raw":"{oops"}\n'
)
EXTRACT_KEY = "runs/r/extract/5dad4ad0de6d6754677d5471c0d810cbcdfa48a9aea219dd94415bc38f7db0bd.json"
EXTRACT_BODY = (
    '{"input":{"batch_size":10000,"rate_limit_seconds":0,"time_zone":"UTC","arrival_timeout_seconds":60,'
    '"approval":false,"dataset_id":"sales"},"sources":["datasets/sales/a.csv","datasets/sales/b.jsonl"],'
    '"ignored":[],"batches":[{"name":"batch-00000","key":"runs/r/extract/'
    '2dd9c914680932f58f01d5dee97a4c0a08c7230c2a94d351e30a007929862110.jsonl.gz","rows":3,'
    '"sha256":"2dd9c914680932f58f01d5dee97a4c0a08c7230c2a94d351e30a007929862110",'
    '"rows_sha256":"d5deb4cb317c260c4255a4333ee3d376309a845d735e1a9372f0464e5bdbe4c4"}],'
    '"transform_at":"2026-11-24T08:35:00Z"}'
)
EXTRACT_RECORD: Item = {
    "pk": {"S": "run#r"},
    "sk": {"S": "step#extract"},
    "s3_key": {"S": EXTRACT_KEY},
    "sha256": {"S": "5dad4ad0de6d6754677d5471c0d810cbcdfa48a9aea219dd94415bc38f7db0bd"},
    "bytes": {"N": "547"},
    "expires_at": {"N": "1804149300"},
}

# batch: the inputs of executions.
FUNCTION_BATCH = (
    '{"batch_id":"01b0:1:1:0:0","query_id":"01b0","digest":"d","row_count":2,"chunk_rows":4096,"chunks":1,'
    '"function":"echo","rows":"[[\\"é\\",1.10],[null,12345678901234567890]]"}'
)
WORKFLOW_BATCH = (
    '{"batch_id":"01b0:1:1:0:2","query_id":"01b0","digest":"d","row_count":1,"chunk_rows":1,"chunks":1,'
    '"workflow":"etl","documents":[{"dataset_id":"sales","batch_size":5}],"detached":true}'
)
