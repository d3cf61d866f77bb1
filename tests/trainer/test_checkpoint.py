"""What a folder of checkpoints holds, and what a damaged one says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from trainer import checkpoint
from trainer.checkpoint import CheckpointError
from trainer.config import CheckpointConfig, TrainConfig

CPU = torch.device("cpu")
CONFIG = TrainConfig().to_dict()


def save(folder, step, *, phase="", val_bpb=None, **policy):
    state = {"config": CONFIG, "step": step, "weights": torch.full((1000,), float(step))}
    checkpoint.save(CheckpointConfig(path=str(folder), **policy), state, step=step, phase=phase, val_bpb=val_bpb)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_kept_and_read(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert files(tmp_path) == ["index.json", "step-00000003.pt"]
    assert checkpoint.load(tmp_path, CPU, CONFIG)["step"] == 3


def test_the_policy_keeps_the_last_the_best_and_the_ends_of_phases(tmp_path):
    for step, val_bpb in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 1.5), (5, 1.4)):
        save(tmp_path, step, phase="first" if step == 3 else "", val_bpb=val_bpb, keep_last=2, keep_best=True)
    assert files(tmp_path) == ["index.json", *(f"step-0000000{step}.pt" for step in (2, 3, 4, 5))]


def test_the_end_of_a_phase_stays_one_when_it_is_saved_again(tmp_path):
    save(tmp_path, 1, phase="first")
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert files(tmp_path) == ["index.json", "step-00000001.pt", "step-00000002.pt"]


def test_a_file_that_the_index_does_not_know_is_no_checkpoint(tmp_path):
    """A kill after a file was renamed and before the index was: the state before counts."""
    save(tmp_path, 1)
    index = (tmp_path / checkpoint.INDEX).read_bytes()
    save(tmp_path, 2, keep_last=2)
    (tmp_path / checkpoint.INDEX).write_bytes(index)
    assert checkpoint.load(tmp_path, CPU, CONFIG)["step"] == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:3000] + b"!" + data[3001:]])
def test_damage_is_refused_names_the_earlier_one_and_changes_nothing(tmp_path, damage):
    for step in (1, 2):
        save(tmp_path, step, keep_last=2)
    newest = checkpoint.newest(tmp_path)
    newest.write_bytes(damage(newest.read_bytes()))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"is damaged.*go on from step-00000001\.pt, of step 1"):
        checkpoint.load(tmp_path, CPU, CONFIG)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    newest.unlink()
    assert checkpoint.load(tmp_path, CPU, CONFIG)["step"] == 1


def test_an_index_that_cannot_be_read_is_refused(tmp_path):
    save(tmp_path, 1)
    (tmp_path / checkpoint.INDEX).write_text("{")
    with pytest.raises(CheckpointError, match=r"index\.json cannot be read"):
        checkpoint.load(tmp_path, CPU, CONFIG)


def test_what_the_index_says_is_what_the_file_is(tmp_path):
    save(tmp_path, 7, phase="last", val_bpb=1.25)
    (entry,) = json.loads((tmp_path / checkpoint.INDEX).read_text())["checkpoints"]
    path = tmp_path / entry["file"]
    assert entry["bytes"] == path.stat().st_size
    assert (entry["step"], entry["phase"], entry["val_bpb"]) == (7, "last", 1.25)
    assert checkpoint.read(path, CPU)["step"] == 7


def draws(count: int = 4) -> list[float]:
    found: list[float] = torch.rand(count).tolist()
    return found


def parted(rank: int, seed: int = 3) -> list[float]:
    torch.manual_seed(seed)
    torch.rand(10)
    checkpoint.part_ways(rank, CPU)
    return draws()


def test_ranks_part_ways_and_the_first_goes_on_as_it_was():
    torch.manual_seed(3)
    torch.rand(10)
    unparted = draws()
    ways = [parted(rank) for rank in range(4)]
    assert ways[0] == unparted and len({tuple(way) for way in ways}) == 4
    assert ways == [parted(rank) for rank in range(4)] and ways[1] != parted(1, seed=4)


def test_a_checkpoint_holds_the_draws_of_every_rank_and_others_part_from_the_first():
    states, expected = [], []
    for rank in range(2):
        parted(rank)
        states.append(checkpoint.random_state(CPU))
        expected.append(draws())
    saved = checkpoint.random_states(states)

    def resumed(rank: int, saved: dict[str, Any] = saved) -> list[float]:
        checkpoint.restore_rank(saved, rank, CPU)
        return draws()

    assert [resumed(0), resumed(1)] == expected
    assert resumed(2) == resumed(2) and resumed(2) not in expected, "a rank that the saved run had not"
    of_an_earlier_version = states[0]
    assert resumed(0, of_an_earlier_version) == expected[0] != resumed(1, of_an_earlier_version)
