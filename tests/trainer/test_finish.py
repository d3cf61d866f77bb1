"""What follows the Outcome: further scores, an artifact that holds what was scored, and the weights as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.test_distributed import alone, on_every_rank
from tests.trainer.test_loop import only, run
from trainer import checkpoint, events, quantize
from trainer.config import TrainConfig, packed_bytes
from trainer.finish import audible
from trainer.run import Run


@pytest.fixture
def exporting(values, tmp_path) -> dict[str, Any]:
    """Values of a run that asks for all there is."""
    values["eval"] |= {"stride": 8, "final_val_tokens": 512}
    values["optim"] = {"average": "ema", "ema_window": 0.2}
    values["export"] = {"scheme": "int6_int8", "codec": "zstd", "path": str(tmp_path / "out" / "model.swq")}
    return values


def after_outcome(said: list[events.Event]) -> list[events.Event]:
    return said[[event.kind for event in said].index("outcome") + 1 :]


def test_scores_and_export_follow_the_outcome_and_the_artifact_is_what_was_scored(exporting):
    code = Path(__file__)
    exporting["export"]["code"] = str(code)
    said: list[events.Event] = []
    prepared = Run(TrainConfig.from_dict(exporting), said.append, lambda: False)
    prepared.to_the_end()

    sliding, quantised, both, export = after_outcome(said)
    assert [score.name for score in (sliding, quantised, both)] == list(events.SCORES)
    outcome = only(said, events.Outcome)[0]
    assert quantised.val_tokens == outcome.val_tokens and both.val_bpb != sliding.val_bpb != outcome.val_bpb
    assert {e.seconds for e in (sliding, quantised, both)} == {outcome.seconds} == {prepared.clock.seconds}
    assert export.gap == quantised.val_bpb - outcome.val_bpb != 0 and export.val_bpb == quantised.val_bpb

    data = Path(exporting["export"]["path"]).read_bytes()
    assert export.artifact_bytes == len(data) + export.code_bytes and export.code_bytes == code.stat().st_size
    shapes = {name: tuple(parameter.shape) for name, parameter in prepared.model.named_parameters()}
    assert export.raw_bytes == packed_bytes(shapes, prepared.config.export)
    prepared.model.load_state_dict(quantize.decode(data))
    assert prepared.validation.final.score(prepared.model, lambda: False).val_bpb == quantised.val_bpb


def test_the_weights_of_training_are_there_again_after_the_finish(exporting, tmp_path):
    exporting["checkpoint"] = {"path": str(tmp_path / "saved")}
    config = TrainConfig.from_dict(exporting)
    prepared = Run(config, [].append, lambda: False)
    prepared.to_the_end()
    saved = checkpoint.load(tmp_path / "saved", torch.device("cpu"), config.to_dict())
    for name, tensor in prepared.model.state_dict().items():
        assert torch.equal(tensor, saved["model"][name]), name


def test_nothing_follows_where_nothing_is_asked_for(values):
    assert [event.kind for event in after_outcome(run(values))] == ["end"]


def test_a_run_stopped_in_its_finish_finishes_when_it_is_resumed(exporting, tmp_path):
    unbroken = run(exporting)
    exporting["checkpoint"] = {"path": str(tmp_path / "broken")}
    broken = stopped_after(exporting, "quantised")
    assert broken[-1].reason == "stopped" and not only(broken, events.Export)
    resumed = run(exporting)
    assert resumed[0].resumed_step == 12
    for kind in (events.Outcome, events.Score, events.Export):
        assert [event.val_bpb for event in only(resumed, kind)] == [event.val_bpb for event in only(unbroken, kind)]


def stopped_after(values: dict[str, Any], score: str) -> list[events.Event]:
    from trainer.loop import train

    said: list[events.Event] = []
    train(TrainConfig.from_dict(values), said.append, lambda: any(e.name == score for e in only(said, events.Score)))
    return said


def test_an_artifact_that_cannot_be_written_costs_a_notice_and_no_score(exporting, tmp_path):
    (tmp_path / "file").write_text("")
    exporting["export"]["path"] = str(tmp_path / "file" / "model.swq")
    said = run(exporting)
    assert "the artifact was not written to export.path" in only(said, events.Notice)[0].message
    assert only(said, events.Export) and said[-1].reason == "complete"


def test_what_the_export_lacks_is_said_before_anything_is_trained(exporting):
    exporting["export"]["code"] = "/nowhere"
    said = run(exporting)
    assert [event.kind for event in said] == ["failure"] and said[0].reason == "config"
    assert "export.code is '/nowhere'" in said[0].message


@pytest.mark.slow
def test_two_ranks_score_the_artifact_that_the_first_one_writes(exporting, tmp_path):
    one = alone(exporting)
    _, said = on_every_rank(tmp_path, [{"config": exporting}])
    first, second = said[0][0], said[1][0]
    assert [event.kind for event in first] == [event.kind for event in second]
    for ours, theirs in zip(after_outcome(first)[:3], after_outcome(second)[:3], strict=True):
        assert (ours.name, ours.val_bpb) == (theirs.name, theirs.val_bpb)
    mine, other, single = (only(said, events.Export)[0] for said in (first, second, one))
    assert mine.artifact_bytes == other.artifact_bytes == Path(exporting["export"]["path"]).stat().st_size
    assert mine.raw_bytes == single.raw_bytes and mine.val_bpb == pytest.approx(single.val_bpb, rel=1e-3)


def test_a_long_validation_is_heard_of():
    said: list[events.Event] = []
    ask = audible(lambda: len(said) > 2, said.append, silence_seconds=0.0)
    while not ask():
        pass
    assert len(said) == 3 and "still validating" in said[0].message
