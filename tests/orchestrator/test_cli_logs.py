"""Promise: a job's ID leads `swapyard logs` to what became of it: state, part, commit, worker, log lines."""

import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_store import make_study

from orchestrator.api import open_results
from orchestrator.cli import cli
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.logs import WorkerLog
from orchestrator.stages.sweep.work import Slice
from orchestrator.store import Manifest, StudyStore, encode_part
from orchestrator.store.parts import part_columns
from orchestrator.store.repair import repair
from orchestrator.upkeep.job_history import find_jobs, story
from workers.errors import QueryError, StoreError

FAMILIES = ("logits", "kl")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study of one part, in which one job failed, with the log of the worker that wrote it."""
    made = make_study(tmp_path / "small")
    (part,) = StudyStore(made).state().live.values()
    with WorkerLog(made, 1, "driver"):
        pass
    with WorkerLog(made, 1, f"{part.host}-{part.worker}") as log:
        log.begun(Slice(0, 0, 0, 2, FAMILIES))
        log.begun(Slice(0, 0, 0, 30, FAMILIES))
        log.note("cell 14 on pair 3 failed\nTraceback …\nValueError: no such token")
        log.ended(part)
    os.utime(made / "logs" / "1" / "driver.log", (1, 1))
    return tmp_path


def logs(root: Path, *arguments: object) -> Result:
    return CliRunner().invoke(cli, ["logs", *map(str, arguments), "--store", str(root)])


def job_id(root: Path, view: str) -> str:
    found = open_results("small", store=root).sql(f"SELECT job_id::VARCHAR FROM {view} ORDER BY 1 LIMIT 1")
    return str(found.fetchall()[0][0])


def lines_of(shown: Result, code: int = 0) -> dict[str, str]:
    assert shown.exit_code == code, shown.output
    return {line[:12].strip(): line[12:] for line in shown.stdout.splitlines() if line[:1].strip()}


def forget_parts(study: Path) -> None:
    """Leave the study as a run does that was killed before its first part was committed."""
    (study / "commits" / "0000000003.json").unlink()


def retry(study: Path, error: str | None) -> Manifest:
    """Run the job that failed once more."""
    store = StudyStore(study)
    (failed,) = store.state().live.values()
    plan = _plan(store)
    ((_, job),) = find_jobs([study], job_id(study.parent, "failures"))
    tile = plan.tiles[0]
    k = plan.cellsets[tile.cellset].tolist().index(job.cell)
    ordinal = k * len(tile.pairs) + tile.pairs.index(job.pair)
    values = {"cell": job.cell, "pair": job.pair, "error": error, "attempt": 1, "tier": "hooked"}
    columns = {
        name: [values.get(name, 1 if kind == "int32" else 1.0)]
        for name, kind in part_columns(FAMILIES).items()
    }
    with store.open_driver() as driver:
        written = store.write_part(driver.epoch, "0", encode_part(columns, FAMILIES))
        part = Manifest(
            path=written.path,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            families=FAMILIES,
            lane="0",
            tile=0,
            k_lo=k,
            k_hi=k + 1,
            rows=1,
            failed=int(error is not None),
            tiers={"hooked": 1},
            timings={"total_s": 0.5},
            worker="8",
            host="there",
            attempt=1,
            replaces=failed.path,
            jobs=((ordinal, ordinal + 1),),
        )
        assert driver.commit([part]) == ()
    return part


def _plan(store: StudyStore) -> Plan:
    ref = store.state().plan
    assert ref is not None
    return read_plan(store, ref)


def test_the_list_has_every_log_the_newest_last(root: Path) -> None:
    shown = logs(root)
    assert shown.exit_code == 0
    head, _, *rows = (line.split() for line in shown.stdout.splitlines())
    assert head == ["study", "epoch", "log", "host", "process", "last", "line", "size", "says"]
    assert [row[:3] for row in rows] == [["small", "1", "driver"], ["small", "1", "here-worker-0"]]
    assert rows[1][4] == str(os.getpid())


def test_a_worker_or_driver_is_printed_from_its_end(root: Path) -> None:
    shown = logs(root, "small", "--worker", "here-worker-0", "--tail", 2)
    assert [line.partition(" ")[2][:11] for line in shown.stdout.splitlines()] == ["slice ended", "ended"]
    assert len(logs(root, "small", "--worker", "here-worker-0", "--tail", 0).stdout.splitlines()) == 8
    assert logs(root, "--driver").stdout.splitlines()[-1].endswith(" ended")


def test_the_newest_log_of_a_name_is_meant_unless_an_epoch_is_given(root: Path) -> None:
    with WorkerLog(root / "small", 7, "driver") as log:
        log.note("seven")
    assert "seven" in logs(root, "--driver").stdout
    assert "seven" not in logs(root, "--driver", "--epoch", 1).stdout
    assert [line.split()[1] for line in logs(root, "--epoch", 7).stdout.splitlines()[2:]] == ["7"]


def test_an_unknown_worker_is_named_with_those_there_are(root: Path) -> None:
    error = logs(root, "--worker", "here-worker-1").exception
    assert isinstance(error, StoreError)
    assert "there are driver, here-worker-0; did you mean 'here-worker-0'?" in str(error)


def test_one_question_at_a_time_and_one_study_where_it_matters(root: Path) -> None:
    assert "give one of --job, --driver and --worker" in logs(root, "--driver", "--worker", "x").stderr
    make_study(root / "other")
    assert "name a study: each has a driver's log; there are other, small" in logs(root, "--driver").stderr


def test_a_study_without_logs_says_so(tmp_path: Path) -> None:
    make_study(tmp_path / "small")
    shown = logs(tmp_path)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, "", "there are no logs yet\n")


def test_a_failed_job_is_told_with_its_traceback(root: Path) -> None:
    wanted = job_id(root, "failures")
    shown = logs(root, "small", "--job", wanted)
    told = lines_of(shown)
    assert told["job"] == wanted
    assert told["model"] == "small (float32, revision 0)"
    assert told["cell"].endswith(": block0, site mlp_output, layer 2, position 4")
    assert (told["base"], told["source"]) == ("The capital of Peru is", "The capital of Spain is")
    assert told["state"] == "failed: ValueError: no such token"
    (part,) = StudyStore(root / "small").state().live
    assert told["part"] == f"{part}: tile 0, cells [0, 30)"
    assert told["committed"].endswith(", of epoch 1")
    assert told["worker"] == "process worker-0 on here"
    assert told["log"] == str(root / "small" / "logs" / "1" / "here-worker-0.log")
    said = shown.stdout.partition(".log\n")[2].splitlines()
    assert "slice begun: tile 0, cells [0, 30)" in said[0] and part in said[-1]
    assert [line.strip() for line in said[2:4]] == ["Traceback …", "ValueError: no such token"]


def test_eight_digits_are_enough_with_or_without_dashes(root: Path) -> None:
    wanted = job_id(root, "results")
    for given in (wanted[:8], wanted[:12].upper(), wanted.replace("-", ""), f" {wanted}"):
        told = lines_of(logs(root, "--job", given))
        assert (told["job"], told["state"]) == (wanted, "done")


@pytest.mark.parametrize("given", ["1234567", "x" * 8, "0" * 33, "", "12345678; DROP"])
def test_what_is_no_id_is_refused(root: Path, given: str) -> None:
    error = logs(root, "--job", given).exception
    assert isinstance(error, QueryError) and "is no job's ID; give a job_id" in str(error)


def test_an_unknown_id_is_one_message(root: Path) -> None:
    error = logs(root, "--job", "00000000").exception
    assert isinstance(error, QueryError) and "no job of small has the ID '00000000'" in str(error)


def test_the_beginning_of_several_ids_names_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 120 random IDs no two begin with the same 8 digits, so here one digit is enough."""
    monkeypatch.setattr("orchestrator.upkeep.job_history._ID", re.compile("[0-9a-f]"))
    error = logs(root, "--job", "c").exception
    assert isinstance(error, QueryError)
    assert re.search(r"'c' is the beginning of several jobs, such as (c[0-9a-f-]{35}, )+", str(error))
    assert str(error).endswith("give more digits")


def test_a_job_of_two_studies_is_told_of_both(root: Path) -> None:
    make_study(root / "twin")
    told = logs(root, "--job", job_id(root, "failures")).stdout
    assert [line.split()[1] for line in told.splitlines() if line.startswith("study")] == ["small", "twin"]


def test_a_study_that_cannot_be_read_hides_no_job_of_another(root: Path) -> None:
    wanted = job_id(root, "failures")
    (make_study(root / "broken") / "commits" / "0000000002.json").write_text("{")
    shown = logs(root, "--job", wanted)
    assert lines_of(shown, 1)["study"] == "small"
    assert shown.exit_code == 1 and shown.stderr.startswith("the study broken is left out: ")
    assert logs(root, "--job", wanted, "--partial").exit_code == 0


def test_a_job_that_waits_is_not_done_yet(tmp_path: Path) -> None:
    make_study(tmp_path / "small")
    wanted = job_id(tmp_path, "failures")
    forget_parts(tmp_path / "small")
    shown = logs(tmp_path, "--job", wanted)
    assert lines_of(shown)["state"] == "not done yet" and "log" not in lines_of(shown)


def test_a_part_that_is_gone_is_said_beside_all_that_is_known(root: Path) -> None:
    wanted = job_id(root, "failures")
    (part,) = (root / "small" / "data").rglob("*.parquet")
    part.unlink()
    shown = logs(root, "--job", wanted)
    assert shown.exit_code == 1
    assert f"{part} was committed and is missing" in shown.stderr
    assert "swapyard doctor --repair small --store" in shown.stderr
    told = lines_of(shown, 1)
    assert told["state"] == "done, and lost: its row cannot be read"
    assert told["attempt"] == "0: its row is lost (logits+kl)"
    with pytest.raises(StoreError, match="was committed and is missing"):
        list(story(*find_jobs([root / "small"], wanted)[0]))


def test_when_a_job_was_committed_is_not_known_where_that_commit_is_lost(root: Path) -> None:
    wanted = job_id(root, "failures")
    shutil.rmtree(root / "small" / "commits")
    repair(root / "small")
    assert lines_of(logs(root, "--job", wanted))["committed"].startswith("nobody knows when")


def test_a_job_whose_worker_died_leads_to_the_last_words(root: Path) -> None:
    wanted = job_id(root, "failures")
    forget_parts(root / "small")
    with WorkerLog(root / "small", 1, "there-9") as log:
        log.begun(Slice(0, 0, 10, 20, FAMILIES))
        log.begun(Slice(0, 0, 20, 30, FAMILIES))
        log.note("Fatal Python error: Segmentation fault")
    shown = logs(root, "--job", wanted).stdout
    assert shown.count("begun, and never committed") == 2, "the part that was not committed, and the death"
    assert "there-9.log" in shown and "Segmentation fault" in shown
    assert "cells [0, 2)" not in shown and "cells [10, 20)" not in shown


@pytest.mark.parametrize("error", [None, '{"type": "RunError", "message": "again"}'])
def test_a_retried_job_is_told_of_every_attempt(root: Path, error: str | None) -> None:
    study = root / "small"
    wanted = job_id(root, "failures")
    part = retry(study, error)
    told = [line for found in find_jobs([study], wanted) for line in story(*found)]
    assert told[-1].endswith("there-8.log is not there")
    attempts = [line.partition(" ")[2].strip() for line in told if line.startswith("attempt")]
    assert attempts[0] == "0: ValueError: no such token (hooked, logits+kl)"
    assert attempts[1] == f"1: {'RunError: again' if error else 'a success'} (hooked, logits+kl)"
    assert any(part.path in line for line in told)
    state = next(line for line in told if line.startswith("state")).partition(" ")[2].strip()
    assert state == ("failed: RunError: again" if error else "done")


def test_the_other_jobs_of_a_retried_part_are_told_of_one_attempt(root: Path) -> None:
    wanted = job_id(root, "results")
    retry(root / "small", None)
    assert sum(line.startswith("attempt") for line in logs(root, "--job", wanted).stdout.splitlines()) == 1
