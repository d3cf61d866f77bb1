"""The whole chain with the real trainer: sweep, promote, kill at half, resume."""

import pytest

from tests.sweeper.installation import Installation, descendants, gone
from tests.sweeper.waiting import until

STUDY = """
name = "toy"
trials = 2
data = { name = "small" }
pruner = { type = "none" }

[budget]
tokens = 40_960

[space]
"optim.matrix_lr" = { log = [0.01, 0.04] }

[base.model]
model_dim = 64
num_heads = 2
num_kv_heads = 1
num_layers = 2

[base.data]
seq_len = 128
batch_tokens = 1024

[base.eval]
val_tokens = 4096
final_val_tokens = 8192

[base.checkpoint]
every_seconds = 0.2

[promote]
tokens = "20x"
"""


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    del made.environment["SWEEPER_TRAINER"]
    made.environment["OMP_NUM_THREADS"] = "1"
    (tmp_path / "real.toml").write_text(STUDY)
    yield made
    made.close()


@pytest.mark.slow
def test_a_promotion_killed_at_half_ends_with_the_score_of_an_unbroken_one(installation):
    sweep = installation.command("launch", "--study", "real.toml", timeout=300)
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    unbroken = installation.command("promote", "--study", "toy", "--yes", timeout=300)
    assert unbroken.returncode == 0, unbroken.stdout + unbroken.stderr

    broken = installation.start("promote", "--study", "toy", "--yes")

    def at_half():
        running = installation.read(lambda results: results.study("toy").running)
        return any(run.progress >= 0.5 for run in running)

    until(at_half, "the second promotion to be at half", 200)
    family = [child.pid for child in descendants(broken.pid)]
    trainer = next(child for child in descendants(broken.pid) if child.cmdline()[-1] == "serve" and child.ppid() > 1)
    trainer.kill()
    broken.kill()
    broken.wait()
    until(lambda: gone(family), "everything to leave", 60)
    resumed = installation.command("promote", "--study", "toy", "--yes", timeout=300)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming promotion 1" in resumed.stdout

    first, second = (installation.read(lambda results, n=n: results.run("toy", "promotion", n)) for n in (0, 1))
    assert first.row.tokens == 20 * 40_960
    assert len(second.attempts) >= 2 and second.resumed_step > 0
    assert second.row.final_val_bpb == first.row.final_val_bpb  # to the last bit
