"""A plan with the real trainer, file to success table: killed in every phase it ends as if it never was."""

from __future__ import annotations

import json
import random

import pytest

from tests.sweeper.installation import Installation, descendants, gone
from tests.sweeper.waiting import until

WORDS = ("the", "river", "ran", "under", "an", "old", "bridge", "people", "talked", "about", "bread", "and", "rain")

STUDY = """
name = "toy"
trials = 1
data = { name = "DATA" }
pruner = { type = "none" }

[budget]
tokens = 20_480

[promote]
plan = "full"

[space]
"optim.matrix_lr" = { log = [0.003, 0.01], tie = { "optim.embed_lr" = 1.0, "optim.scalar_lr" = 1.0 } }

[base.model]
family = "helix"
vocab_size = 1088

[base.helix]
d_model = 32
num_heads = 2
num_loops = 2

[base.optim]
matrix_optimizer = "adamw"

[base.data]
seq_len = 64
batch_tokens = 1024

[base.eval]
val_tokens = 2048
final_val_tokens = 4096
"""

PLAN = """
study = "toy"

[values]
"optim.matrix_lr" = 0.005

[base.checkpoint]
every_seconds = 0.3

[base.eval]
sample_tokens = 4

[[phases]]
name = "pretrain-1"
tokens = "120K"
warmup = 0.05

[[phases]]
name = "pretrain-2"
tokens = "120K"
lr = 0.5
optimizer = "reset"

[[phases]]
name = "instruct"
kind = "instruct"
tokens = "100K"
lr = 0.3
shape = "linear"
data = "CHATS"
windows = "documents"
dropout = 0.05

[[phases]]
name = "remedial"
kind = "remedial"
tokens = "60K"
lr = 0.1
split = "reserve"

[success]
tokens = 240_000
hours = 1.0
tokens_per_active = 20.0
"""


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    del made.environment["SWEEPER_TRAINER"]
    made.environment["OMP_NUM_THREADS"] = "1"
    chance = random.Random(0)
    lines = [" ".join(chance.choices(WORDS, k=80)) for _ in range(3200)]
    (tmp_path / "text.txt").write_text("\n<|endoftext|>\n".join(lines))
    chats = [{"prompt": f"Say {line[:9]}.", "response": line[: 20 + 9 * i % 300]} for i, line in enumerate(lines)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (tmp_path / "toy.toml").write_text(STUDY.replace("DATA", str(tmp_path / "data")))
    (tmp_path / "full.toml").write_text(PLAN.replace("CHATS", str(tmp_path / "chat")))
    for words in (
        ["text.txt", "--out", "data", "--reserve-tokens", "70000", "--val-fraction", "0.05"],
        ["chats.jsonl", "--format", "chatml", "--out", "chat", "--val-fraction", "0.05"],
    ):
        done = made.command("data", "prepare", *words, "--tokenizer", "sweeper1024", timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    yield made
    made.close()


@pytest.mark.slow
def test_a_plan_killed_in_every_phase_ends_with_the_score_of_an_unbroken_one(installation):
    order = ("run", "full.toml", "--yes")
    unbroken = installation.command(*order, timeout=300)
    assert unbroken.returncode == 0, unbroken.stdout + unbroken.stderr
    assert "tokens per active parameter" in unbroken.stdout.lower() or "TPA" in unbroken.stdout

    ends = [120, 240, 340, 400]
    for phase, begin in enumerate((0, *ends[:-1])):
        half = (begin + ends[phase]) / 2 / ends[-1]
        broken = installation.start(*order)

        def there(half=half):
            return any(run.progress >= half for run in installation.read(lambda results: results.study("toy").running))

        until(there, f"phase {phase} to be half done", 200)
        family = [child.pid for child in descendants(broken.pid)]
        trainer = next(
            child for child in descendants(broken.pid) if child.cmdline()[-1] == "serve" and child.ppid() > 1
        )
        trainer.kill()
        broken.kill()
        broken.wait()
        until(lambda family=family: gone(family), "everything to leave", 60)
    resumed = installation.command(*order, timeout=300)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming promotion 1" in resumed.stdout

    first, second = (installation.read(lambda results, n=n: results.run("toy", "promotion", n)) for n in (0, 1))
    assert second.row.final_val_bpb == first.row.final_val_bpb  # to the last bit
    assert second.resumed_step > 0 and len(second.attempts) >= 5
    table = installation.read(lambda results: results.standing(results.run("toy", "promotion", 1)).success)
    assert {row.verdict for row in table.rows} <= {"PASS", "FAIL", "not known"} and table.rows
    folder = installation.settings.home / "runs" / "promotions" / "toy-1"
    kept = [entry["phase"] for entry in json.loads((folder / "index.json").read_text())["checkpoints"]]
    assert [name for name in kept if name] == ["pretrain-1", "pretrain-2", "instruct", "remedial"]

    said = installation.command("sample", str(folder), "the river", "--tokens", "5", "--device", "cpu", timeout=60)
    assert said.returncode == 0 and said.stdout.strip(), said.stderr
    asked = installation.command(
        "sample", str(folder), "Say rain.", "--chat", "--tokens", "5", "--device", "cpu", timeout=60
    )
    assert asked.returncode == 0, asked.stderr
