"""Which fields each state of an Amazon States Language machine in JSONata may have, as JSON Schemas.

Source: https://states-language.net/spec.html and the state pages of the Step Functions Developer Guide.
Narrower than the language: some fields that are optional there are required here, because runs hang or fail
without an explanation where they are left out (timeouts, jitter, a cause). The `description` of a property is
the remedy that the lint prints.
"""

from typing import Any

Schema = dict[str, Any]

# Fields of JSONPath machines and what does their work in JSONata.
JSONPATH_FIELDS = {
    "InputPath": "select from $states.input in Arguments",
    "Parameters": "rename it to Arguments (ItemSelector on a Map)",
    "ResultSelector": "select from $states.result in Output or Assign",
    "ResultPath": "keep a result in a variable with Assign, or build the state's Output",
    "OutputPath": "build the state's Output",
    "Result": "rename it to Output",
    "ItemsPath": "use Items",
    "Iterator": "rename it to ItemProcessor",
    "SecondsPath": "use Seconds with an expression",
    "TimestampPath": "use Timestamp with an expression",
    "TimeoutSecondsPath": "use TimeoutSeconds with an expression",
    "HeartbeatSecondsPath": "use HeartbeatSeconds",
    "MaxConcurrencyPath": "use MaxConcurrency with an expression",
    "ToleratedFailureCountPath": "use ToleratedFailureCount with an expression",
    "ToleratedFailurePercentagePath": "use ToleratedFailurePercentage with an expression",
    "ErrorPath": "use Error with an expression",
    "CausePath": "use Cause with an expression",
    "Variable": "write the comparison as a JSONata Condition",
}

EXPRESSION = r"^\{%[\s\S]*%\}$"

_ANY: Schema = {}
_TEXT: Schema = {"type": "string", "minLength": 1}
MAX_NAME = 80
_NAME: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_NAME,
    "description": f"name a state, in at most {MAX_NAME} characters",
}
_TEMPLATE: Schema = {"type": ["object", "array", "string", "number", "boolean", "null"]}
_ASSIGN: Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,79}$", "not": {"const": "states"}},
    "description": "write an object of variable names (without $) and their values",
}


def _number(description: str, minimum: float = 0) -> Schema:
    return {"type": "number", "minimum": minimum, "description": description}


def _number_or_expression(description: str, minimum: float = 0) -> Schema:
    return {
        "anyOf": [{"type": "number", "minimum": minimum}, {"type": "string", "pattern": EXPRESSION}],
        "description": description,
    }


def _fields(properties: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


RETRIER = _fields(
    {
        "Comment": _TEXT,
        "ErrorEquals": {
            "type": "array",
            "minItems": 1,
            "items": _TEXT,
            "description": "list the names of the errors",
        },
        "IntervalSeconds": {"type": "integer", "minimum": 1, "description": "write a whole number from 1"},
        "MaxAttempts": {
            "type": "integer",
            "minimum": 0,
            "maximum": 99_999_999,
            "description": "say how often to retry, as a whole number (0: never)",
        },
        "BackoffRate": _number("make each wait longer than the one before, for example 2", minimum=1),
        "MaxDelaySeconds": {
            "type": "integer",
            "minimum": 1,
            "maximum": 31_622_400,
            "description": "write a whole number",
        },
        "JitterStrategy": {
            "enum": ["FULL"],
            "description": 'write "FULL", so that what failed together doesn\'t come back together',
        },
    },
    ("ErrorEquals", "MaxAttempts"),
)

# What a retrier that retries at all must have besides.
RETRIER_PACE = ("BackoffRate", "JitterStrategy")

CATCHER = _fields(
    {
        "Comment": _TEXT,
        "ErrorEquals": RETRIER["properties"]["ErrorEquals"],
        "Next": _NAME,
        "Output": _TEMPLATE,
        "Assign": _ASSIGN,
    },
    ("ErrorEquals", "Next"),
)

CHOICE_RULE = _fields(
    {
        "Comment": _TEXT,
        "Condition": {
            "anyOf": [{"type": "boolean"}, {"type": "string", "pattern": EXPRESSION}],
            "description": 'write an expression that gives true or false: "{% ... %}"',
        },
        "Next": _NAME,
        "Output": _TEMPLATE,
        "Assign": _ASSIGN,
    },
    ("Condition", "Next"),
)

# The names of errors that Step Functions itself raises; others that start with States. are typos.
# https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
# fmt: off
ERROR_NAMES = frozenset(f"States.{name}" for name in (
    "ALL", "BranchFailed", "DataLimitExceeded", "ExceedToleratedFailureThreshold", "HeartbeatTimeout",
    "Http.Socket", "IntrinsicFailure", "ItemReaderFailed", "NoChoiceMatched", "ParameterPathFailure",
    "Permissions", "QueryEvaluationError", "ResultPathMatchFailure", "ResultWriterFailed", "Runtime",
    "TaskFailed", "Timeout",
))
# fmt: on

_STATE: dict[str, Schema] = {
    "Type": _TEXT,
    "Comment": _TEXT,
    "QueryLanguage": {"const": "JSONata", "description": "leave it out: the machine's JSONata holds"},
}
_LINK: dict[str, Schema] = {"Next": _NAME, "End": {"const": True, "description": "write true, or Next"}}
_DATA: dict[str, Schema] = {"Output": _TEMPLATE, "Assign": _ASSIGN}
_ERRORS: dict[str, Schema] = {
    "Retry": {"type": "array", "items": {"type": "object"}, "description": "list retriers"},
    "Catch": {"type": "array", "items": {"type": "object"}, "description": "list catchers"},
}

STATES: dict[str, Schema] = {
    "Task": _fields(
        _STATE
        | _LINK
        | _DATA
        | _ERRORS
        | {
            "Resource": {
                "type": "string",
                "pattern": r"^(arn:|\$\{)",
                "description": "write the ARN of a service integration, a function or a placeholder",
            },
            "Arguments": _TEMPLATE,
            "Credentials": {"type": "object"},
            "TimeoutSeconds": _number_or_expression("say how many seconds one attempt may take", minimum=1),
            "HeartbeatSeconds": _number_or_expression("write a number or an expression"),
        },
        ("Resource", "TimeoutSeconds"),
    ),
    "Pass": _fields(_STATE | _LINK | _DATA),
    "Wait": _fields(
        _STATE
        | _LINK
        | _DATA
        | {
            "Seconds": _number_or_expression("write a number or an expression"),
            "Timestamp": {"type": "string", "minLength": 1, "description": "write a time or an expression"},
        }
    ),
    "Choice": _fields(
        _STATE
        | _DATA
        | {
            "Choices": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "object"},
                "description": "list rules with Condition and Next",
            },
            "Default": {
                **_NAME,
                "description": "name the state for when no rule matches: without it the run ends in an error",
            },
        },
        ("Choices", "Default"),
    ),
    "Succeed": _fields(_STATE | {"Output": _TEMPLATE}),
    "Fail": _fields(
        _STATE
        | {
            "Error": {**_TEXT, "description": "name the error (an expression may)"},
            "Cause": {**_TEXT, "description": "say what failed and where (an expression may)"},
        },
        ("Error", "Cause"),
    ),
    "Map": _fields(
        _STATE
        | _LINK
        | _DATA
        | _ERRORS
        | {
            "Items": {
                "anyOf": [{"type": "array"}, {"type": "string", "pattern": EXPRESSION}],
                "description": "write an array or an expression",
            },
            "ItemReader": {"type": "object"},
            "ItemSelector": _TEMPLATE,
            "ItemBatcher": _ANY,
            "ResultWriter": _ANY,
            "ItemProcessor": {"type": "object", "description": "give it StartAt and States"},
            "MaxConcurrency": _number_or_expression(
                "say how many items may run at once, as a number or an expression (a placeholder inside: "
                '"{% ${MapConcurrency} %}")'
            ),
            "ToleratedFailurePercentage": _number_or_expression("write a number or an expression"),
            "ToleratedFailureCount": _number_or_expression("write a number or an expression"),
            "Label": {"type": "string", "maxLength": 40, "description": "write at most 40 characters"},
        },
        ("ItemProcessor", "MaxConcurrency"),
    ),
    "Parallel": _fields(
        _STATE
        | _LINK
        | _DATA
        | _ERRORS
        | {
            "Branches": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "object"},
                "description": "list branches with StartAt and States",
            },
            "Arguments": _TEMPLATE,
        },
        ("Branches",),
    ),
}

_MACHINE: dict[str, Schema] = {
    "Comment": {**_TEXT, "description": "say in a sentence what the machine is for"},
    "StartAt": _NAME,
    "States": {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"type": "object", "description": "write the state as an object"},
        "description": "list the states",
    },
}

MACHINE = _fields(
    _MACHINE
    | {
        "Version": {"const": "1.0", "description": 'write "1.0" or leave it out'},
        "QueryLanguage": {"const": "JSONata", "description": 'write "QueryLanguage": "JSONata"'},
        "TimeoutSeconds": {
            "type": "integer",
            "minimum": 1,
            "maximum": 99_999_999,
            "description": "write how many seconds the whole run may take, as a number",
        },
    },
    ("Comment", "QueryLanguage", "StartAt", "States", "TimeoutSeconds"),
)

BRANCH = _fields(_MACHINE, ("StartAt", "States"))

ITEM_PROCESSOR = _fields(
    _MACHINE
    | {
        "ProcessorConfig": _fields(
            {
                "Mode": {"enum": ["INLINE", "DISTRIBUTED"], "description": "write INLINE or DISTRIBUTED"},
                "ExecutionType": {
                    "enum": ["STANDARD", "EXPRESS"],
                    "description": "write STANDARD or EXPRESS",
                },
            },
            ("Mode",),
        )
    },
    ("StartAt", "States"),
)
