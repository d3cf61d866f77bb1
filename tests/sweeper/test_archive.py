"""Studies that leave one installation whole and come back: nothing of them is lost, and nothing broken is let in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from sqlalchemy import delete, update
from typer.testing import CliRunner

from sweeper import archive, control, throughput
from sweeper.cli import app
from sweeper.errors import SweeperError
from sweeper.export import export
from sweeper.importing import importer
from sweeper.importing.mapping import MapFile
from sweeper.importing.runs import Run
from sweeper.promote import promote
from sweeper.protocol import PromoteRequest
from sweeper.results import Results
from sweeper.service import Conflict, Service, find_study, spec_of
from sweeper.tables import ScoreRow, ThroughputRow
from tests.dashboard.serve import app_over, served
from tests.sweeper import lawful, talk
from tests.sweeper.foreign_runs import contents, optuna_trials
from trainer.events import Outcome

PLACE_OF_A_RUN = {"worker"}
ROUNDED = {"seconds", "progress", "train_loss", "tokens_per_second"}
one_database = pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)
SCORED: dict[str, Any] = {"val_loss": 2.0, "val_bpb": 1.0, "val_tokens": 100}
LIMITED = talk.SPEC | {
    "description": "Half of what can happen",
    "judge": "quantised",
    "constraints": {"artifact_bytes": 1000, "peak_memory_bytes": 500},
    "base": talk.SPEC["base"] | {"export": {"scheme": "int8"}},
    "retries": 0,
}


def eventful(service: Service) -> None:
    """A study with a complete trial, one over a limit, one pruned by hand, one diverged, one failed, one running."""
    control.create_study(service, LIMITED | {"trials": 6})
    for size, bpb in ((900, 2.0), (1100, 1.9)):
        said = [talk.start(), talk.step(0.3), talk.evaluation(0.3, bpb + 1), {"event": "log", "line": "noise"}]
        said += [{"event": "notice", "message": "smaller"}, talk.evaluation(0.6, bpb + 0.1), talk.evaluation(1.0, bpb)]
        said += [talk.outcome(bpb), talk.score("quantised", bpb + 0.1), talk.export(size), talk.end(memory=400)]
        talk.say(service, talk.take(service), *said)
    behind = talk.take(service)
    ordered = talk.say(service, behind, talk.start(), talk.evaluation(0.3, 9.0))
    assert ordered.command == "stop"
    talk.say(service, behind, talk.end("stopped"), first=2)
    talk.say(service, talk.take(service), talk.start(), talk.step(0.2), talk.end("diverged", "loss is nan"))
    talk.say(service, talk.take(service), talk.start(), talk.failure("config", "no such thing"))
    talk.say(service, talk.take(service), talk.start(), talk.step(0.1))


@pytest.fixture
def leave(service: Service, tmp_path: Path) -> Callable[[str], Path]:
    """Exports a study to its archive."""

    def written(name: str) -> Path:
        (path,) = export(service.engine, name, "archive", tmp_path / "out")
        return path

    return written


def exported(service: Service, name: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What other tools are given of the study, by table."""
    return {path.stem: json.loads(path.read_text()) for path in export(service.engine, name, "json", folder / name)}


def assert_same(service: Service, name: str, folder: Path) -> None:
    mine, theirs = exported(service, name, folder), exported(service, "other", folder)
    running = {row["number"] for row in mine["trials"] if row["state"] == "running"}
    for table, rows in mine.items():
        kept = [row for row in rows if row["number"] not in running]
        assert len(theirs[table]) == len(kept), table
        for one, other in zip(kept, theirs[table], strict=True):
            for column, value in one.items():
                if table == "curves" and column in ROUNDED and isinstance(value, float):
                    assert other[column] == pytest.approx(value, rel=5e-4)
                elif column.endswith("_at"):
                    assert other[column] == pytest.approx(value, abs=0.01)
                elif column not in PLACE_OF_A_RUN:
                    assert other[column] == value, (table, column)


@pytest.mark.parametrize("storage_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_ladder_comes_back_with_the_same_numbers(service, bring_in, leave, tmp_path, settings, monkeypatch):
    lawful.sweep(service)
    report = bring_in(leave("lawful"))

    assert report.stored == {"complete": 24} and not report.skipped and not report.notes
    assert_same(service, "lawful", tmp_path)
    with service.read() as session:
        row = find_study(session, "other")
        original, copy = spec_of(find_study(session, "lawful")), spec_of(row)
    assert row.state == "stopped"
    assert copy == original.model_copy(update={"name": "other"})
    assert [trial.value for trial in optuna_trials(service)] == [t.value for t in talk.trials(service, "lawful")]
    monkeypatch.setenv("SWEEPER_STORAGE", settings.storage)
    for asked in (["fit", "--json"], ["plan", "--tokens", "100M"]):
        told = [CliRunner().invoke(app, [*asked, "--study", name]).output for name in ("lawful", "other")]
        assert told[0].replace("lawful", "other") == told[1] and len(told[0]) > 500
    plans = [promote(service, name, PromoteRequest(plan_only=True)) for name in ("lawful", "other")]
    assert plans[0].transfer == plans[1].transfer and plans[0].params == plans[1].params


@one_database
@pytest.mark.slow
def test_its_pages_show_the_same(service, bring_in, leave):
    lawful.sweep(service)
    bring_in(leave("lawful"))
    with served(app_over(service.engine)) as url, httpx.Client(base_url=f"{url}/studies", trust_env=False) as client:
        for shown in ("scaling/laws", "figures/curves", "figures/history", "figures/parameters", "figures/parallel"):
            mine, theirs = (client.get(f"/{name}/{shown}") for name in ("lawful", "other"))
            assert mine.status_code == theirs.status_code == 200
            assert len(mine.text) > 1000 and mine.text.replace("lawful", "other") == theirs.text, shown
        assert client.get("/other").status_code == client.get("/other/scaling").status_code == 200
        assert client.get("/other/trials/3").status_code == 200


def test_whatever_becomes_of_a_trial_is_kept(service, bring_in, leave, tmp_path):
    eventful(service)
    report = bring_in(leave("tiny"))

    assert report.stored == {"complete": 2, "pruned": 1, "diverged": 1, "failed": 1}
    assert_same(service, "tiny", tmp_path)
    results = Results(service.engine)
    summary = results.study("other")
    assert summary.best is not None and summary.best.number == 0 and summary.infeasible == 1
    assert summary.counts.failed == 1
    mine, theirs = talk.trials(service)[:5], optuna_trials(service)
    for one, other in zip(mine, theirs, strict=True):
        assert (other.state, other.params, other.value) == (one.state, one.params, one.value)
        assert other.intermediate_values == one.intermediate_values
        assert other.constraints == one.constraints
    said = [(message.kind, message.body) for message in results.run("other", "trial", 0).messages]
    assert ("log", {"line": "noise"}) not in said
    assert said == [(m.kind, m.body) for m in results.run("tiny", "trial", 0).messages if m.kind != "log"]
    with service.read() as session:
        assert {row.name for row in session.query(ScoreRow)} == {"quantised"}


def test_the_same_archive_twice_changes_nothing_and_a_grown_one_adds(service, bring_in, leave, tmp_path):
    eventful(service)
    bring_in(leave("tiny"))
    before = contents(service)
    again = bring_in(leave("tiny"))
    assert (again.there, again.stored) == (5, {}) and contents(service) == before

    control.create_study(service, LIMITED | {"trials": 8})
    said = [talk.start(), talk.evaluation(1.0, 2.5), talk.outcome(2.5), talk.score("quantised", 2.5), talk.export(9)]
    talk.say(service, talk.take(service, "w2"), *said, talk.end())
    grown = bring_in(leave("tiny"))
    assert (grown.there, grown.stored) == (5, {"complete": 1})


@one_database
def test_a_study_goes_through_two_archives_unchanged(service, bring_in, leave, tmp_path):
    eventful(service)
    first = leave("tiny")
    bring_in(first)
    second = leave("other")
    (_, one), (_, other) = archive.read(first), archive.read(second)
    assert one == other


@one_database
def test_speeds_come_along_unless_newer_ones_are_known(service, bring_in, leave, clock):
    lawful.sweep(service, batches=(8192,))
    path = leave("lawful")

    def known() -> list[float]:
        with service.read() as session:
            return [found.tokens_per_second for found in throughput.known(session, "test processor").values()]

    measured = known()
    with service.write() as session:
        session.execute(delete(ThroughputRow))
    bring_in(path)
    assert known() == measured
    with service.write() as session:
        session.execute(update(ThroughputRow).values(tokens_per_second=1.0, measured_at=clock()))
    order = importer.Order(sources=[str(path)], study="again", mapping=MapFile())
    assert importer.run(order, service, lambda verb, done, total: None).stored == {"complete": 6}
    assert known() == [1.0]


@one_database
def test_another_study_of_that_name_is_refused_with_the_difference(service, bring_in, leave):
    eventful(service)
    lawful.sweep(service, batches=(8192,))
    bring_in(leave("tiny"))
    before = contents(service)
    with pytest.raises(SweeperError, match=r"budget\.tokens: 10240 → 8192000"):
        bring_in(leave("lawful"))
    with pytest.raises(SweeperError, match="alone"):
        bring_in(leave("tiny"), leave("lawful"))
    with pytest.raises(SweeperError, match="--map"):
        bring_in(leave("tiny"), mapping=("lr=optim.matrix_lr",))
    assert contents(service) == before


def lines(path: Path) -> list[dict[str, Any]]:
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    return [json.loads(line) for line in raw.splitlines()]


def rewritten(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    found = lines(path)
    change(found)
    archive.write_lines(path, found[0], found[1:])


DAMAGES: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "a newer version": (lambda found: found[0].update(version=2), "tiny.* archive of version 2.* up to 1"),
    "another file": (lambda found: found[0].pop("format"), "no archive of a study"),
    "a missing run": (lambda found: found.pop(), "incomplete: it has 4 of 5 runs"),
    "a run without a state": (lambda found: found[2].pop("state"), "line 3 is damaged: state"),
    "a value off its axis": (lambda found: found[2]["params"].update({"optim.matrix_lr": 9}), "damaged: trial 1: .*9"),
    "an unknown event": (lambda found: found[1]["events"][0].update(event="bang"), "damaged: trial 0: .*bang"),
    "a study of another kind": (lambda found: found[0]["spec"].update(surprise=1), "surprise: unknown key"),
}


@one_database
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_archive_says_what_is_wrong_and_nothing_is_stored(service, bring_in, leave, damage):
    eventful(service)
    path = leave("tiny")
    before = contents(service)
    change, said = DAMAGES[damage]
    rewritten(path, change)
    with pytest.raises(SweeperError, match=said):
        bring_in(path, form="archive")
    assert contents(service) == before
    with service.read() as session, pytest.raises(SweeperError, match=r"no study .other. here"):
        find_study(session, "other")


@one_database
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_cut_off_in_the_middle_is_refused(service, bring_in, leave, share):
    eventful(service)
    path = leave("tiny")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SweeperError, match=r"cannot be decompressed|damaged"):
        bring_in(path)


@one_database
def test_a_flipped_byte_is_found(service, bring_in, leave):
    eventful(service)
    path = leave("tiny")
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0x10
    path.write_bytes(bytes(broken))
    with pytest.raises(SweeperError, match="cannot be decompressed"):
        bring_in(path)


@one_database
def test_an_archive_is_known_by_its_first_line_where_it_was_renamed(service, bring_in, leave, tmp_path):
    eventful(service)
    renamed = leave("tiny").rename(tmp_path / "mine.zst")
    assert bring_in(renamed).stored["complete"] == 2
    plain = tmp_path / "mine.jsonl"
    plain.write_text("\n".join(map(json.dumps, lines(renamed))))
    assert bring_in(plain).there == 5


def test_a_smaller_budget_is_no_final_score_and_no_progress():
    run = Run(source="here", identity="1", name="one", values={})
    run.tell([Outcome(step=3, tokens=300, seconds=3.0, budget=3.0, **SCORED)], 0.0)
    assert (run.judged, run.step, run.progress, run.val_bpb) == ({}, 0, 0.0, None)
    run.tell([Outcome(step=3, tokens=300, seconds=4.0, **SCORED)], 0.0)
    assert (run.judged, run.step, run.progress) == ({"final": 1.0}, 3, 1.0)
    assert [row["budget"] for row in run.outcomes] == [None]  # of equal tokens the full one counts


@one_database
def test_the_best_trial_that_came_back_is_promoted_as_at_home(service, bring_in, leave):
    lawful.sweep(service)
    bring_in(leave("lawful"))
    plan = promote(service, "other", PromoteRequest())
    assert plan.number == 0 and plan.trial == Results(service.engine).study("lawful").best.number
    grant = talk.take(service, "w9", study="other")
    assert grant.kind == "promotion" and grant.config["budget"]["tokens"] == plan.tokens


@one_database
def test_a_running_study_of_this_home_is_not_written_to(service, leave):
    eventful(service)
    path = leave("tiny")
    order = importer.Order(sources=[str(path)], study="tiny", mapping=MapFile())
    with pytest.raises(Conflict, match="own runs"):
        importer.run(order, service, lambda verb, done, total: None)
