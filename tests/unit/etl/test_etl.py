"""The steps of etl, run one after another as the machine does: what they load and repeat after a crash."""

import gzip
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core import checkpoints
from core.checkpoints import CheckpointError, RunConflict
from core.errors import TransientError, reraise_transient
from core.inputs import InputError
from core.records import DatasetError
from etl import extract, load, schedule, transform, verify
from etl.cleaning import clean, dump_line
from etl.stored_files import StoredFileError
from tests.unit.fake_aws import CONTEXT, FakeAws

CSV = (
    b"id,day,amount\n001,2026-11-01,1.10\n002,2026-11-02, 2.20 \n003,2026-11-02,\n"
    b"broken\n005,,5\n006,soon,6\n"
)
JSON_LINES = b'{"id":"100","amount":12345678901234567890.10,"day":"2026-11-01"}\n{oops\n'
SALES = {"datasets/sales/a.csv": CSV, "datasets/sales/b.jsonl.gz": gzip.compress(JSON_LINES)}
INPUT = {"dataset_id": "sales", "batch_size": 2, "partition_by": "day"}


READS = {"get_object", "get_item"}


@pytest.fixture(autouse=True)
def sales(aws: FakeAws) -> None:
    """The dataset has arrived."""
    arrive(aws, SALES)


def arrive(aws: FakeAws, objects: dict[str, bytes]) -> None:
    """Puts objects of a dataset."""
    for key, body in objects.items():
        aws.s3.put(key, body)


def steps(aws: FakeAws, run_id: str = "r") -> set[str]:
    """The steps of a run that have a checkpoint."""
    return {sk.removeprefix("step#") for pk, sk in aws.dynamodb.items if pk == f"run#{run_id}"}


def written(aws: FakeAws, prefix: str) -> list[str]:
    """The keys below a prefix that the steps wrote, in their order."""
    calls = [call for call in aws.faults.calls if call.operation in ("put_object", "copy_object")]
    keys = [call.parameters["Key"] for call in calls]
    return [key for key in keys if key.startswith(prefix)]


def run(document: dict[str, Any] = INPUT, run_id: str = "r", approval: Any = None) -> dict[str, Any]:
    """All steps in the machine's order, and its output."""
    loaded = run_to_load(document, run_id, approval)
    return {**loaded, "verified": {"data": check("data", run_id), "rejects": check("rejects", run_id)}}


def run_to_load(document: dict[str, Any] = INPUT, run_id: str = "r", approval: Any = None) -> load.Loaded:
    """All steps but the verification."""
    extracted = extract.handler({"run_id": run_id, "input": document, "attempts": 0}, CONTEXT)
    assert extracted["arrived"]
    for batch in range(extracted["batches"]):
        transform.handler({"run_id": run_id, "batch": batch}, CONTEXT)
    schedule.handler({"run_id": run_id, "approval": approval}, CONTEXT)
    return load.handler({"run_id": run_id}, CONTEXT)


def check(kind: Any, run_id: str = "r") -> verify.Verified:
    """Verifies what was loaded."""
    return verify.handler({"run_id": run_id, "kind": kind}, CONTEXT)


def lines(aws: FakeAws, prefix: str) -> list[Any]:
    """The JSON of all lines under a prefix, file by file."""
    return [
        json.loads(line)
        for body in aws.s3.under(prefix).values()
        for line in gzip.decompress(body).splitlines()
    ]


def test_a_dataset_is_loaded_by_day_with_its_rejects(aws: FakeAws) -> None:
    output = run()

    assert (output["rows"], output["rejected"]) == (5, 3)
    prefix = output["prefix"]
    assert list(aws.s3.under(prefix)) == [
        prefix + name
        for name in (
            "data/day=2026-11-01/part-00000.jsonl.gz",
            "data/day=2026-11-01/part-00003.jsonl.gz",
            "data/day=2026-11-02/part-00000.jsonl.gz",
            "data/day=2026-11-02/part-00001.jsonl.gz",
            "data/day=null/part-00002.jsonl.gz",
            "manifest.json",
            "rejects/part-00001.jsonl.gz",
            "rejects/part-00002.jsonl.gz",
            "rejects/part-00003.jsonl.gz",
        )
    ]
    assert b'"amount":12345678901234567890.10,' in gzip.decompress(
        aws.s3.under(prefix)[prefix + "data/day=2026-11-01/part-00003.jsonl.gz"]
    )
    assert [(r["source"], r["line"], r["raw"]) for r in lines(aws, prefix + "rejects/")] == [
        ("datasets/sales/a.csv", 5, "broken\n"),
        ("datasets/sales/a.csv", 7, '{"id":"006","day":"soon","amount":"6"}'),
        ("datasets/sales/b.jsonl.gz", 2, "{oops"),
    ]


def test_the_manifest_lists_each_file_with_its_rows_and_hashes_and_is_written_last(aws: FakeAws) -> None:
    output = run()

    manifest = json.loads(aws.s3.objects[output["manifest"]].body)
    assert manifest["sources"] == list(SALES)
    for kind, total in (("data", manifest["rows"]), ("rejects", manifest["rejected"])):
        assert sum(file["rows"] for file in manifest[kind]) == total == output["verified"][kind]["rows"]
        for file in manifest[kind]:
            text = gzip.decompress(aws.s3.objects[file["key"]].body)
            assert (len(text.splitlines()), hashlib.sha256(text).hexdigest()) == (
                file["rows"],
                file["sha256"],
            )
    digests = [hashlib.sha256(json_line).digest() for json_line in all_lines(aws, output["prefix"] + "data/")]
    total_digest = sum(int.from_bytes(digest) for digest in digests) % 2**256
    assert manifest["rows_sha256"] == output["verified"]["data"]["rows_sha256"] == f"{total_digest:064x}"
    assert written(aws, "loads/")[-1] == output["manifest"]


def all_lines(aws: FakeAws, prefix: str) -> list[bytes]:
    return [line for body in aws.s3.under(prefix).values() for line in gzip.decompress(body).splitlines()]


ROW = st.dictionaries(
    st.sampled_from(["id", "a", " a", "b"]),
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    max_size=3,
)


@given(
    st.lists(ROW | st.sampled_from([b"{broken", b"\xff", b"[1]"]), max_size=12),
    st.integers(1, 5),
    st.integers(0, 12),
)
@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_loaded_is_what_cleaning_each_row_gives(
    aws: FakeAws, table: list[dict[str, Any] | bytes], size: int, cut: int
) -> None:
    aws.clear()
    texts = [row if isinstance(row, bytes) else dump_line(row) for row in table]
    arrive(
        aws, {f"datasets/d/{n}.jsonl": b"\n".join(part) for n, part in enumerate((texts[:cut], texts[cut:]))}
    )
    expected = []
    for row in table:
        with suppress(ValueError):
            expected += [clean(row)] if isinstance(row, dict) else []

    output = run({"dataset_id": "d", "batch_size": size})

    assert lines(aws, output["prefix"] + "data/") == expected
    assert output["rejected"] == len(table) - len(expected) == len(lines(aws, output["prefix"] + "rejects/"))


# --- repeated, and after a crash ---


def test_a_repeated_run_computes_nothing_and_has_the_same_output(aws: FakeAws) -> None:
    first = run()
    aws.faults.calls.clear()

    assert run() == first
    assert set(aws.faults.operations()) == READS
    read = [call.parameters["Key"] for call in aws.faults.calls if call.service == "s3"]
    assert all(key.startswith("runs/r/") for key in read)


def test_another_run_over_the_same_rows_leaves_one_copy(aws: FakeAws) -> None:
    first = run()
    before = aws.s3.under("loads/")
    aws.faults.calls.clear()

    assert run(run_id="other") == first
    assert aws.s3.under("loads/") == before
    assert written(aws, "loads/") == []


def test_a_process_that_dies_at_any_call_is_resumed_there(aws: FakeAws) -> None:
    document = {**INPUT, "batch_size": 4}
    output, wanted = run(document), aws.s3.under("loads/")
    calls = len(aws.faults.calls)
    assert calls > 40

    deaths = 0
    for death in aws.faults.each_death():
        aws.dynamodb.items.clear()
        aws.s3.objects.clear()
        arrive(aws, SALES)
        with death:
            run(document)
        deaths += death.happened
        done = steps(aws)
        aws.faults.calls.clear()
        if "extract" in done:
            # The run has its own copy: the source may be deleted or changed by then.
            arrive(aws, dict.fromkeys(SALES, b"changed"))

        assert run(document) == output
        assert aws.s3.under("loads/") == wanted
        # No finished step was computed again: a step ends with a write of its checkpoint.
        assert not {key.split("/")[2] for key in written(aws, "runs/")} & done
    assert deaths == 2 * calls


def test_two_workers_at_one_step_agree_on_what_the_first_one_recorded(aws: FakeAws) -> None:
    late = extract.extract("r", extract.complete(INPUT), list(SALES), list(SALES))
    arrive(aws, {"datasets/sales/a.csv": CSV + b"007,2026-11-03,7\n"})
    output = run()

    # The late worker's record is refused, and what it stored is under other keys.
    assert checkpoints.save_checkpoint("r", "extract", late) != late
    assert output["rows"] == 6
    assert run() == output


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"batch_size": 0}, "at $.batch_size: 0 is less than the minimum of 1"),
        ({"batch_size": "2"}, "at $.batch_size: '2' is not of type 'integer'"),
        ({"off_peak_hour": 24}, "at $.off_peak_hour: 24 is greater than the maximum of 23"),
        ({"dataset_id": "../x"}, "at $.dataset_id: '../x' does not match"),
        ({"key_columns": []}, "at $.key_columns: [] should be non-empty"),
        ({"batchsize": 1}, "at $: Additional properties are not allowed ('batchsize' was unexpected)"),
        (
            {"time_zone": "Mars/Olympus"},
            "at $.time_zone: 'Mars/Olympus' is not in the IANA time zone database",
        ),
        ({"time_zone": "../etc/passwd"}, "at $.time_zone: '../etc/passwd' is not in the IANA"),
        ({"time_zone": ""}, "at $.time_zone: '' is not in the IANA"),
    ],
)
def test_bad_input_names_the_path(aws: FakeAws, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as error:
        run({**INPUT, **change})
    assert str(error.value).startswith(f"the input, {problem}")


def test_a_run_id_belongs_to_one_input(aws: FakeAws) -> None:
    run()
    run({**INPUT, "run_id": "r"})

    with pytest.raises(RunConflict, match="run r had another input"):
        run({**INPUT, "batch_size": 3})


def test_an_invalid_run_id_is_refused(aws: FakeAws) -> None:
    with pytest.raises(CheckpointError, match="this one is 'a b'"):
        run(run_id="a b")


def attempt(attempts: int, timeout: int) -> Any:
    """Extracts a dataset that had not arrived so often."""
    document = {"dataset_id": "later", "arrival_timeout_seconds": timeout}
    return extract.handler({"run_id": "r", "input": document, "attempts": attempts}, CONTEXT)


@pytest.mark.parametrize(("timeout", "most"), [(0, 0), (1, 1), (60, 12), (3600, 100), (604800, 100)])
def test_a_dataset_that_never_arrives_ends_the_run_in_time(aws: FakeAws, timeout: int, most: int) -> None:
    arrive(aws, {"datasets/later/readme.txt": b"soon", "datasets/later/": b""})
    seconds = 0
    for attempts in range(most):
        answer = attempt(attempts, timeout)
        assert (answer["arrived"], answer["attempts"]) == (False, attempts + 1)
        seconds += answer["retry_seconds"]
    with pytest.raises(DatasetError) as error:
        attempt(most, timeout)
    assert timeout <= seconds <= timeout + 5 + timeout / 50
    assert "no dataset 'later': no object datasets/later/*.csv or *.jsonl" in str(error.value)
    assert f"within {timeout} s, and 2 of other names" in str(error.value)


def test_an_execution_of_version_0_1_waits_for_its_dataset(aws: FakeAws) -> None:
    document = {"dataset_id": "later", "arrival_timeout_seconds": 60}
    answer = extract.handler({"run_id": "r", "input": document, "looks": 3}, CONTEXT)
    assert (answer["arrived"], answer["looks"], answer["look_again_seconds"]) == (False, 4, 5)
    with pytest.raises(DatasetError, match="within 60 s"):
        extract.handler({"run_id": "r", "input": document, "looks": 12}, CONTEXT)


def test_a_dataset_that_arrives_late_is_extracted(aws: FakeAws) -> None:
    assert not attempt(3, 60)["arrived"]
    arrive(aws, {"datasets/later/a.jsonl": b'{"a":1}'})
    assert attempt(4, 60)["arrived"]


def test_objects_of_other_names_are_ignored_and_listed(aws: FakeAws) -> None:
    arrive(aws, {"datasets/sales/": b"", "datasets/sales/readme.txt": b"x", "datasets/sales2/a.csv": CSV})
    manifest = json.loads(aws.s3.objects[run()["manifest"]].body)
    assert manifest["ignored"] == ["datasets/sales/readme.txt"]
    assert manifest["sources"] == list(SALES)


def test_a_dataset_without_rows_is_loaded_as_such(aws: FakeAws) -> None:
    arrive(aws, {"datasets/empty/a.csv": b"id\n"})
    output = run({"dataset_id": "empty"})
    assert (output["files"], output["rows"], output["rejected"]) == (0, 0, 0)
    assert list(aws.s3.under(output["prefix"])) == [output["manifest"]]


@pytest.mark.parametrize(
    "body", [b"not gzip", gzip.compress(CSV, mtime=0)[:-9], gzip.compress(CSV, mtime=0)[:20] + b"\0" * 40]
)
def test_gzip_that_is_broken_fails_the_run_and_names_the_object(aws: FakeAws, body: bytes) -> None:
    arrive(aws, {"datasets/bad/a.csv.gz": body})
    with pytest.raises(DatasetError, match=r"datasets/bad/a\.csv\.gz cannot be unpacked"):
        run({"dataset_id": "bad"})
    assert steps(aws) == set()


def test_more_batches_than_fit_a_history_are_refused_with_the_remedy(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "MAX_BATCHES", 3)
    with pytest.raises(DatasetError, match="more than 3 batches of 2 rows; raise batch_size"):
        run()
    assert run({**INPUT, "batch_size": 3})["rows"] == 5


# --- errors of AWS ---


@pytest.mark.parametrize("operation", ["list_objects_v2", "get_object", "put_object"])
def test_a_throttle_is_retried_by_its_name(aws: FakeAws, operation: str) -> None:
    aws.faults.fail(operation, "SlowDown")
    with pytest.raises(TransientError, match="SlowDown"):
        run()
    assert run()["rows"] == 5


def test_a_source_that_is_deleted_while_it_is_read_is_retried(aws: FakeAws) -> None:
    aws.faults.fail("get_object", "NoSuchKey")
    with pytest.raises(TransientError, match=r"datasets/sales/a\.csv was deleted"):
        run()


def test_a_denied_call_is_not_retried(aws: FakeAws) -> None:
    aws.faults.fail("put_object", "AccessDenied")
    with pytest.raises(Exception, match="AccessDenied") as error:
        run()
    assert not isinstance(error.value, TransientError)


# --- schedule and approval ---


def test_a_load_waits_for_the_hour_that_was_computed_first(aws: FakeAws) -> None:
    document = {**INPUT, "off_peak_hour": 3, "time_zone": "Asia/Tokyo"}
    extract.handler({"run_id": "r", "input": document, "attempts": 0}, CONTEXT)

    first = schedule.handler({"run_id": "r", "approval": None}, CONTEXT)
    aws.faults.calls.clear()

    assert schedule.handler({"run_id": "r", "approval": None}, CONTEXT) == first
    assert set(aws.faults.operations()) == READS


@pytest.mark.parametrize("answer", [None, {}, {"approved": False}, {"approved": "true"}, True, [1]])
def test_only_approved_true_is_an_approval(aws: FakeAws, answer: Any) -> None:
    document = {**INPUT, "approval": True}
    with pytest.raises(schedule.ApprovalRefused, match="a new run with this run_id asks again"):
        run(document, approval=answer)
    assert aws.s3.under("loads/") == {}

    assert run(document, approval={"approved": True, "by": "somebody"})["rows"] == 5


def test_an_approval_is_asked_for_until_it_is_given(aws: FakeAws) -> None:
    event: extract.Event = {"run_id": "r", "input": {**INPUT, "approval": True}, "attempts": 0}
    assert extract.handler(event, CONTEXT)["approval"]
    assert extract.handler(event, CONTEXT)["approval"]
    schedule.handler({"run_id": "r", "approval": {"approved": True}}, CONTEXT)
    assert not extract.handler(event, CONTEXT)["approval"]


# --- verify ---


def loaded_file(aws: FakeAws, kind: str = "data") -> str:
    """Loads without verifying; the key of one file."""
    output = run_to_load()
    return next(key for key in aws.s3.under(output["prefix"]) if f"/{kind}/" in key)


@pytest.mark.parametrize("kind", ["data", "rejects"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text + text, "rows, and"),
        (lambda text: text.replace(b"a", b"b"), "its SHA-256 is not what was written"),
        (lambda text: text.rstrip(b"\n"), "its SHA-256 is not what was written"),
    ],
)
def test_a_loaded_file_that_differs_from_what_was_transformed_is_reported(
    aws: FakeAws, kind: str, damage: Callable[[bytes], bytes], problem: str
) -> None:
    key = loaded_file(aws, kind)
    arrive(aws, {key: gzip.compress(damage(gzip.decompress(aws.s3.objects[key].body)))})
    with pytest.raises(StoredFileError, match=problem) as error:
        check(kind)
    assert key in str(error.value)


def test_a_loaded_file_that_is_missing_or_damaged_is_reported(aws: FakeAws) -> None:
    key = loaded_file(aws)
    body = aws.s3.objects.pop(key).body
    with pytest.raises(StoredFileError, match="is gone"):
        check("data")
    arrive(aws, {key: body[:-4]})
    with pytest.raises(StoredFileError, match="not gzip any more"):
        check("data")
    arrive(aws, {key: body})
    assert check("data")["rows"] == 5


def test_a_file_that_is_not_of_the_load_is_reported(aws: FakeAws) -> None:
    stray = f"{loaded_file(aws).partition('/data/')[0]}/data/copy.jsonl.gz"
    arrive(aws, {stray: b""})
    with pytest.raises(
        verify.VerificationError, match=r"1 objects .* not of this load, for instance .*copy\.jsonl\.gz"
    ):
        check("data")
    del aws.s3.objects[stray]
    assert check("data")["rows"] == 5


def test_a_file_that_is_missing_before_the_load_is_named(aws: FakeAws) -> None:
    loaded_file(aws)
    aws.dynamodb.items.pop(("run#r", "step#load"))
    for key in [*aws.s3.under("runs/r/transform/"), *aws.s3.under("loads/")]:
        del aws.s3.objects[key]
    with pytest.raises(StoredFileError, match=r"runs/r/transform/.* is gone"):
        load.handler({"run_id": "r"}, CONTEXT)


def test_a_step_without_the_checkpoint_before_it_says_so(aws: FakeAws) -> None:
    with pytest.raises(CheckpointError, match="step extract of run r has no checkpoint"):
        load.handler({"run_id": "r"}, CONTEXT)


@pytest.mark.parametrize("key", ["a.csv", "a.jsonl"])
def test_a_body_that_arrives_in_pieces_is_read_completely_and_an_incomplete_one_is_retried(
    aws: FakeAws, key: str
) -> None:
    arrive(aws, {key: CSV if key == "a.csv" else b'{"a":1}\n' * 6})
    aws.s3.piece_bytes = 3
    assert len(list(extract.read_object(key))) == 6

    aws.s3.sent_bytes = 32
    with pytest.raises(TransientError, match="IncompleteReadError"):
        reraise_transient(lambda: list(extract.read_object(key)))()
