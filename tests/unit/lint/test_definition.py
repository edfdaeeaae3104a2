"""The lint reports each mistake in an otherwise valid definition, and nothing in a valid one."""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonata import Jsonata  # type: ignore[import-untyped]

from stepflake.lint.asl.definition import count_states, lint_definition, lint_substitutions
from stepflake.lint.asl.retries import POLICIES
from stepflake.lint.finding import Finding
from tests.unit.lint.edits import Document, Edit, at, drop, insert, put

MACHINES = Path(__file__).parents[3] / "statemachines"
BATCH = json.loads((MACHINES / "batch.asl.json").read_text(encoding="utf-8"))

RETRIER: Document = {
    "Comment": "No policy of the project: it is short.",
    "ErrorEquals": [
        "Lambda.ServiceException",
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.ClientExecutionTimeoutException",
        "Lambda.TooManyRequestsException",
    ],
    "IntervalSeconds": 1,
    "MaxAttempts": 3,
    "BackoffRate": 2,
    "JitterStrategy": "FULL",
}
GUARDED = "{% $exists($states.errorOutput.Cause) ? $states.errorOutput.Cause : '' %}"
LAMBDA: Document = {
    "Type": "Task",
    "Resource": "arn:aws:states:::lambda:invoke",
    "Arguments": {"FunctionName": "${Arn}", "Payload": "{% $states.input %}"},
    "TimeoutSeconds": 60,
    "Retry": [RETRIER],
}
# Every type of state, both ways of nesting, and variables that reach where they are used.
GOOD: Document = {
    "Comment": "Everything there is.",
    "QueryLanguage": "JSONata",
    "TimeoutSeconds": 600,
    "StartAt": "Start",
    "States": {
        "Start": {"Type": "Pass", "Assign": {"run": "{% $uuid() %}", "n": 0}, "Next": "Any?"},
        "Any?": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $count($states.input.items) > 0 %}", "Next": "Each"}],
            "Assign": {"why": "no items"},
            "Default": "Empty",
        },
        "Empty": {"Type": "Fail", "Error": "Empty", "Cause": "{% $why & ' in run ' & $run %}"},
        "Each": {
            "Type": "Map",
            "Items": "{% $states.input.items %}",
            "ItemSelector": {"value": "{% $states.context.Map.Item.Value %}", "run": "{% $run %}"},
            "MaxConcurrency": "{% ${Concurrency} %}",
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "INLINE"},
                "StartAt": "One",
                "States": {
                    "One": {**LAMBDA, "Assign": {"one": "{% $states.result.Payload %}"}, "Next": "Say one"},
                    "Say one": {"Type": "Pass", "Output": "{% [$one, $run] %}", "End": True},
                },
            },
            "Catch": [
                {
                    "ErrorEquals": ["States.DataLimitExceeded"],
                    "Assign": {"why": "too large"},
                    "Next": "Empty",
                },
                {
                    "ErrorEquals": ["States.ALL"],
                    "Assign": {"why": GUARDED},
                    "Next": "Empty",
                },
            ],
            "Output": "{% $map($states.result, function($v, $i) { {'i': $i, 'v': $v} }) %}",
            "Next": "Both",
        },
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {
                    "StartAt": "Left",
                    "States": {"Left": {"Type": "Pass", "Output": "{% $run %}", "End": True}},
                },
                {
                    "StartAt": "Right",
                    "States": {"Right": {"Type": "Wait", "Seconds": "{% $n %}", "End": True}},
                },
            ],
            "Next": "Ask",
        },
        "Ask": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Arguments": {"QueueUrl": "${Queue}", "MessageBody": "{% $states.context.Task.Token %}"},
            "TimeoutSeconds": 3600,
            "HeartbeatSeconds": 60,
            "Retry": [{**RETRIER, "ErrorEquals": ["States.HeartbeatTimeout"]}],
            "Next": "Done",
        },
        "Done": {"Type": "Succeed"},
    },
}

SUBSTITUTIONS = {"Arn", "Concurrency", "Queue"}


ONE = "States.Each.ItemProcessor.States.One"


def without(retrier: Mapping[str, Any], field: str) -> list[Document]:
    return [{name: value for name, value in retrier.items() if name != field}]


MISTAKES: list[tuple[Edit, str, str]] = [
    # links
    (put("", StartAt="Strat"), "StartAt", "there is no state 'Strat'"),
    (put("States.Start", Next="Any"), "States.Start.Next", "there is no state 'Any'"),
    (put("States.Any?", Default="Nowhere"), "States.Any?.Default", "there is no state 'Nowhere'"),
    (put("States.Any?.Choices[0]", Next="Nowhere"), "States.Any?.Choices[0].Next", "there is no state"),
    (put("States.Each.Catch[1]", Next="Nowhere"), "States.Each.Catch[1].Next", "there is no state"),
    (put(ONE, Next="Done"), f"{ONE}.Next", "there is no state 'Done' here"),
    (put("States", Lost={"Type": "Succeed"}), "States.Lost", "nothing leads to it"),
    (put("States.Start", Next="Each"), "States.Any?", "nothing leads to it"),
    (drop("States.Ask", "Next"), "States.Ask", "has neither Next nor End"),
    (
        drop("States.Both.Branches[0].States.Left", "End"),
        "States.Both.Branches[0].States.Left",
        "neither Next nor",
    ),
    (put("States.Ask", End=True), "States.Ask", "has both Next and End"),
    (put("States.Ask", Next="Both"), "States.Ask", "no path leads from it to an end"),
    (drop("States.Any?", "Default"), "States.Any?", "Default is missing"),
    (
        put("States.Both.Branches[0].States", Right={"Type": "Succeed"}),
        "States.Both.Branches[1].States.Right",
        "States.Both.Branches[0].States.Right has the same name",
    ),
    (put("States", **{"x" * 81: {"Type": "Succeed"}}), f"States.{'x' * 81}", "the name has 81 characters"),
    # JSONata
    (put("States.Start", Output="{% $count( %}"), "States.Start.Output", "bad JSONata: "),
    (put("States.Start", Output="{% $n ?? 1 %}"), "States.Start.Output", "?? came with JSONata 2.1"),
    (put("States.Start", Output="{% /(/ %}"), "States.Start.Output", "bad JSONata: "),
    (put("States.Start", Output="run {% $n %}"), "States.Start.Output", "neither text nor an expression"),
    (
        put("States.Start", Output={"a": ["{% $n"]}),
        "States.Start.Output.a[0]",
        "neither text nor an expression",
    ),
    (put("States.Start", Output="{% $run %}"), "States.Start.Output", "no path to here assigns $run"),
    (put("States.Both", Comment="x", Arguments="{% $one %}"), "States.Both.Arguments", "assigns $one"),
    (put("States.Each", Items="{% $why %}"), "States.Each.Items", "no path to here assigns $why"),
    (put("States.Start", Output="{% $counts([1]) %}"), "States.Start.Output", "assigns $counts"),
    (put("States.Start", Output="{% $eval('1') %}"), "States.Start.Output", "has no $eval"),
    (
        put("States.Start", Output="{% $states.result %}"),
        "States.Start.Output",
        "$states.result does not exist here",
    ),
    (
        put(ONE, Output="{% $states.errorOutput %}"),
        f"{ONE}.Output",
        "$states.errorOutput does not exist here",
    ),
    (put(ONE, Output="{% $states.results %}"), f"{ONE}.Output", "$states.results does not exist here"),
    (put(ONE, Arguments="{% $states.result %}"), f"{ONE}.Arguments", "$states.result does not exist here"),
    (
        put("States.Each.Catch[1]", Output="{% $states.result %}"),
        "States.Each.Catch[1].Output",
        "$states.result does",
    ),
    (
        put("States.Start", Output={"a": "{% states.input %}"}),
        "States.Start.Output.a",
        "'states' refers to nothing",
    ),
    (
        put("States.Any?.Choices[0]", Condition="$n = 1"),
        "States.Any?.Choices[0].Condition",
        "can't stand here",
    ),
    (put(ONE, Assign={"run": 1}), "States.Each.ItemProcessor", "$run is assigned here and outside too"),
    (put(ONE, Assign={"$one": 1}), f"{ONE}.Assign", "can't stand here"),
    # JSONPath
    (put(ONE, InputPath="$.a"), ONE, "InputPath belongs to JSONPath"),
    (put(ONE, Parameters={}), ONE, "Parameters belongs to JSONPath"),
    (put(ONE, ResultPath="$.a"), ONE, "ResultPath belongs to JSONPath"),
    (put(ONE, ResultSelector={}), ONE, "ResultSelector belongs to JSONPath"),
    (put(ONE, OutputPath="$.a"), ONE, "OutputPath belongs to JSONPath"),
    (put("States.Start", Result=1), "States.Start", "Result belongs to JSONPath"),
    (put("States.Any?.Choices[0]", Variable="$.a"), "States.Any?.Choices[0]", "Variable belongs to JSONPath"),
    (put("States.Start", Output={"a.$": "x"}), "States.Start.Output.a.$", "ends with .$ belongs to JSONPath"),
    (put("States.Start", Output={"a": "$.x"}), "States.Start.Output.a", "'$.x' belongs to JSONPath"),
    (
        put("States.Start", Output="States.UUID()"),
        "States.Start.Output",
        "'States.UUID()' belongs to JSONPath",
    ),
    (
        put("States.Start", QueryLanguage="JSONPath"),
        "States.Start.QueryLanguage",
        '"JSONPath" can\'t stand here',
    ),
    (put("", QueryLanguage="JSONPath"), "QueryLanguage", '"JSONPath" can\'t stand here'),
    # fields
    (put(ONE, Argument={}), ONE, "there is no field 'Argument' here"),
    (put("States.Each", Timeoutseconds=1), "States.Each", "there is no field 'Timeoutseconds' here"),
    (put(f"{ONE}.Retry[0]", Backoff=1), f"{ONE}.Retry[0]", "there is no field 'Backoff' here"),
    (put("States.Start", Type="Pas"), "States.Start", "the Type 'Pas' does not exist"),
    (put("States.Done", Type=None), "States.Done", "the Type None does not exist"),
    (drop("States.Empty", "Cause"), "States.Empty", "Cause is missing"),
    (
        put("States.Both.Branches[1].States.Right", Timestamp="x"),
        "States.Both.Branches[1].States.Right",
        "needs Seconds or Timestamp",
    ),
    (drop("States.Each", "MaxConcurrency"), "States.Each", "MaxConcurrency is missing"),
    (put("States.Each", MaxConcurrency="${Concurrency}"), "States.Each.MaxConcurrency", "can't stand here"),
    (drop("", "Comment"), "", "Comment is missing"),
    (drop("", "TimeoutSeconds"), "", "TimeoutSeconds is missing"),
    (drop("", "QueryLanguage"), "", "QueryLanguage is missing"),
    # errors and time
    (drop("States.Ask", "TimeoutSeconds"), "States.Ask", "TimeoutSeconds is missing"),
    (drop(ONE, "TimeoutSeconds"), ONE, "TimeoutSeconds is missing"),
    (put(ONE, TimeoutSeconds="60"), f"{ONE}.TimeoutSeconds", "can't stand here"),
    (put(ONE, TimeoutSeconds=0), f"{ONE}.TimeoutSeconds", "can't stand here"),
    (put(ONE, TimeoutSeconds="{% $one %}"), f"{ONE}.TimeoutSeconds", "no path to here assigns $one"),
    (put("States.Ask", HeartbeatSeconds=3600), "States.Ask.HeartbeatSeconds", "is not below TimeoutSeconds"),
    (drop("States.Ask", "Retry"), "States.Ask", "has no Retry"),
    (put(ONE, Retry=[]), ONE, "has no Retry"),
    (
        put(f"{ONE}.Retry[0]", ErrorEquals=["Lambda.ServiceException"]),
        f"{ONE}.Retry",
        "doesn't cover Lambda.AWSLambdaException, Lambda.SdkClientException, "
        "Lambda.ClientExecutionTimeoutException, Lambda.TooManyRequestsException",
    ),
    (put(f"{ONE}.Retry[0]", MaxAttempts=0), f"{ONE}.Retry", "doesn't cover Lambda.ServiceException"),
    (
        put(ONE, Resource="${Arn}", Retry=[{**RETRIER, "ErrorEquals": ["Mine"]}]),
        f"{ONE}.Retry",
        "doesn't cover",
    ),
    (drop(f"{ONE}.Retry[0]", "MaxAttempts"), f"{ONE}.Retry[0]", "MaxAttempts is missing"),
    (drop(f"{ONE}.Retry[0]", "BackoffRate"), f"{ONE}.Retry[0]", "BackoffRate is missing"),
    (drop(f"{ONE}.Retry[0]", "JitterStrategy"), f"{ONE}.Retry[0]", "JitterStrategy is missing"),
    (
        put(f"{ONE}.Retry[0]", ErrorEquals=["States.ALL", "Mine"]),
        f"{ONE}.Retry[0].ErrorEquals",
        "States.ALL stands beside others",
    ),
    (
        insert(f"{ONE}.Retry", 0, {**RETRIER, "ErrorEquals": ["States.ALL"]}),
        f"{ONE}.Retry[0].ErrorEquals",
        "States.ALL hides the entries behind it",
    ),
    (
        insert("States.Each.Catch", 2, {"ErrorEquals": ["Mine"], "Next": "Empty"}),
        "States.Each.Catch[1].ErrorEquals",
        "States.ALL hides the entries behind it",
    ),
    (
        put("States.Each.Catch[1]", ErrorEquals=["States.Timedout"]),
        "States.Each.Catch[1].ErrorEquals",
        "Step Functions has no error States.Timedout",
    ),
    (
        put("States.Each.Catch[0]", ErrorEquals=["States.Timeout"]),
        "States.Each.Catch[1].ErrorEquals",
        "States.ALL doesn't catch States.DataLimitExceeded",
    ),
    (
        put("States.Each.Catch[1]", Assign={"why": "{% $states.errorOutput.Cause %}"}),
        "States.Each.Catch[1].Assign.why",
        "$states.errorOutput.Cause may be missing",
    ),
    (
        put("States.Each.Catch[1]", Output={"a": ["{% 'no: ' & $states.errorOutput.Error %}"]}),
        "States.Each.Catch[1].Output.a[0]",
        "$states.errorOutput.Error may be missing",
    ),
    (
        # The other one is asked for.
        put("States.Each.Catch[1]", Output=GUARDED.replace("''", "$states.errorOutput.Error")),
        "States.Each.Catch[1].Output",
        "$states.errorOutput.Error may be missing",
    ),
    (
        put("States.Each.Catch[1]", Assign={"why": "{% $states.errorOutput %}"}),
        "States.Each.Catch[1].Assign.why",
        "passes on an error whose Error or Cause may be missing",
    ),
    # the project's retry policies
    (drop(f"{ONE}.Retry[0]", "Comment"), f"{ONE}.Retry", "is none of the project's retry policies"),
    (put(ONE, Retry=without(POLICIES["queue"].retry[0], "MaxDelaySeconds")), f"{ONE}.Retry", "is none of"),
    (put(ONE, Retry=[*POLICIES["step"].retry, *POLICIES["queue"].retry]), f"{ONE}.Retry", "is none of"),
    (put(ONE, Retry=[{**RETRIER, "Comment": ""}]), f"{ONE}.Retry[0].Comment", "can't stand here"),
    # what the local engine ignores
    (put("States.Any?", Output="x"), "States.Any?.Output", "the local engine ignores it on a Choice"),
    (put("States.Each", ItemBatcher={}), "States.Each.ItemBatcher", "the local engine ignores it on a Map"),
    (put("States.Each", ResultWriter={}), "States.Each.ResultWriter", "the local engine ignores it on a Map"),
    (
        put("States.Each.ItemProcessor.ProcessorConfig", Mode="DISTRIBUTED"),
        "States.Each.ItemProcessor.States.Say one.Output",
        "no path to here assigns $run",
    ),
    # size
    (put("States.Start", Comment="x" * 1_048_576), "", "and Step Functions takes 1,048,576"),
]


def test_a_definition_in_order_has_no_findings() -> None:
    assert lint_definition(GOOD) == []
    assert lint_substitutions(GOOD, SUBSTITUTIONS) == []


@pytest.mark.parametrize(
    ("mistake", "where", "problem"),
    MISTAKES,
    ids=lambda value: value[:40] if isinstance(value, str) else "edit",
)
def test_a_mistake_is_found_where_it_is(mistake: Edit, where: str, problem: str) -> None:
    machine = copy.deepcopy(GOOD)
    mistake(machine)

    findings = lint_definition(machine)

    assert [finding for finding in findings if finding.where == where and problem in finding.problem], (
        findings
    )
    assert all(finding.remedy for finding in findings)


@pytest.mark.parametrize(
    "output",
    [
        "{% ($x := $n; $y := function($z) { $z + $x }; $y(1)) %}",
        "{% $states.input.rows[value > 1].(value + 1) %}",
        "{% $states.input.rows@$row.cells#$i.{'row': $row, 'i': $i} %}",
        "{% $states.input ~> |rows|{'size': $count(cells)}| %}",
        "{% $states.input.rows{kind: $sum(size)} %}",
        "{% $sort($states.input.rows, function($l, $r) { $l.size > $r.size }) %}",
        "{% $states.input.rows^(>size).size %}",
        "{% [0..$n] ~> $map(function($i) { $i * 2 }) ~> $sum %}",
        "{% $partition($range(1, 9, 1), 3) %}",
        "{% $hash($string($random(1)) & $parse('\"a\"'), 'SHA-256') %}",
        "{% $n > 0 ? 'a?:b' : 'a??b' %}",
        "{% $merge([$states.input, {'${Arn}': ${Concurrency}}]) %}",
        "costs $5 or 10%",
    ],
)
def test_jsonata_in_order_has_no_findings(output: str) -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, "States.Each")["Next"] = "Use"
    machine["States"]["Use"] = {"Type": "Pass", "Output": output, "Next": "Both"}

    assert lint_definition(machine) == []


def test_a_variable_that_one_of_two_paths_assigns_may_be_used() -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, "States.Any?.Choices[0]")["Assign"] = {"some": True}
    machine["States"]["Empty"]["Cause"] = "{% $exists($some) ? 'some' : $why %}"
    at(machine, "States.Each.Catch[1]")["Next"] = "Empty"

    assert lint_definition(machine) == []


def test_a_time_limit_may_be_an_expression() -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, ONE)["TimeoutSeconds"] = "{% $n + 60 %}"

    assert lint_definition(machine) == []


@pytest.mark.parametrize("output", [GUARDED, "{% $string($states.errorOutput) %}"])
def test_an_error_of_which_nothing_is_taken_for_granted_has_no_findings(output: str) -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, "States.Each.Catch[1]")["Output"] = output

    assert lint_definition(machine) == []


@pytest.mark.parametrize("machine", ["batch", "fan_out", "ingest"])
@pytest.mark.parametrize("error", [{}, {"Error": "Mine"}, {"Error": "Mine", "Cause": "why"}])
def test_the_projects_machines_catch_an_error_without_a_cause(machine: str, error: dict[str, str]) -> None:
    definition = (MACHINES / f"{machine}.asl.json").read_text(encoding="utf-8")
    expressions = re.findall(r"\{% ([^%]*errorOutput[^%]*) %\}", definition)

    assert expressions
    for expression in expressions:
        value = Jsonata.jsonata(expression).evaluate(None, {"states": {"errorOutput": error}})
        assert isinstance(value, str), expression


@pytest.mark.parametrize(
    ("policy", "errors"),
    [
        ("step", ["Lambda.TooManyRequestsException"]),
        ("function", ["Lambda.TooManyRequestsException", "RateLimited"]),
    ],
)
def test_what_is_limited_is_waited_for_almost_as_long_as_a_batch_may_take(
    policy: str, errors: list[str]
) -> None:
    [retrier] = [retrier for retrier in POLICIES[policy].retry if retrier["ErrorEquals"] == errors]
    delays = [
        min(retrier["IntervalSeconds"] * retrier["BackoffRate"] ** attempt, retrier["MaxDelaySeconds"])
        for attempt in range(retrier["MaxAttempts"])
    ]

    assert retrier["JitterStrategy"] == "FULL"  # each wait is from 0 to its delay, on average half of it
    assert sum(delays) < BATCH["TimeoutSeconds"]
    assert sum(delays) / 2 > 240


def test_an_error_with_zero_attempts_needs_no_interval() -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, ONE)["Retry"].insert(0, {"ErrorEquals": ["Final"], "MaxAttempts": 0})

    assert lint_definition(machine) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_named_policy_needs_no_comment(policy: str) -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, "States.Ask")["Retry"] = copy.deepcopy(POLICIES[policy].retry)

    assert lint_definition(machine) == []


def test_the_finding_explains_the_policies() -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, ONE)["Retry"] = without(RETRIER, "Comment")

    [finding] = lint_definition(machine)

    assert all(f"{name} ({policy.purpose})" in finding.remedy for name, policy in POLICIES.items())


def test_a_policy_with_a_comment_is_still_that_policy() -> None:
    machine = copy.deepcopy(GOOD)
    at(machine, "States.Ask")["Retry"] = [{"Comment": "why", **POLICIES["queue"].retry[0]}]

    assert lint_definition(machine) == []


def test_a_comment_in_one_of_several_retriers_is_enough() -> None:
    machine = copy.deepcopy(GOOD)
    retry = at(machine, ONE)["Retry"]
    retry.append({**without(RETRIER, "Comment")[0], "ErrorEquals": ["Mine"]})

    assert lint_definition(machine) == []


def test_substitutions_and_placeholders_must_match() -> None:
    assert lint_substitutions(GOOD, {"Arns", "Concurrency", "Queue"}) == [
        Finding(
            "",
            "${Arn} is not among the template's DefinitionSubstitutions",
            "give it there (did you mean 'Arns'?)",
        ),
        Finding("", "the template substitutes Arns, which the definition doesn't use", "remove it there"),
    ]


def test_states_are_counted_inside_map_and_parallel_too() -> None:
    assert count_states(GOOD) == 11
