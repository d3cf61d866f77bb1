"""The command line from outside: real commands, a real service and workers, a fake trainer."""

import json
import signal

import pytest

from tests.sweeper.installation import Installation, assert_nothing_lost_or_doubled, descendants, gone
from tests.sweeper.waiting import until

STEPS = 20


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """An installation in which a study of three trials was launched to its end, and that command's result;
    then a service runs alone, which later commands find."""
    made = Installation(tmp_path_factory.mktemp("launched"))
    result = made.command("launch", "--study", made.study_file(steps=STEPS), "--workers", 2)
    made.serve()
    yield made, result
    made.close()


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    yield made
    made.close()


def test_launch_runs_the_study_and_names_the_best_trial(launched):
    made, result = launched
    assert result.returncode == 0, result.stderr
    best = made.read(lambda results: results.study("toy").best)
    assert f"best: trial {best.number} final val_bpb {best.val_bpb:.4f}" in result.stdout
    assert f"optim.matrix_lr = {best.params['optim.matrix_lr']}" in result.stdout
    assert "dashboard: http://127.0.0.1:" in result.stdout
    assert "sweeper promote --study toy" in result.stdout
    assert f"forecast: 3 × {STEPS} steps on 2 workers\n" in result.stdout
    assert [line for line in result.stdout.splitlines() if line.startswith("[3/3] trial")]
    assert assert_nothing_lost_or_doubled(made, 3, STEPS) == []


def test_launch_of_a_complete_study_says_so_and_how_to_extend_it(launched):
    made, _ = launched
    result = made.command("launch", "--study", made.study_file(steps=STEPS))
    assert result.returncode == 0, result.stderr
    assert "toy is complete" in result.stdout and "--trials 6" in result.stdout


def test_a_study_changed_in_what_matters_is_refused_with_the_difference(launched):
    made, _ = launched
    result = made.command("launch", "--study", made.study_file(steps=STEPS + 1))
    assert result.returncode == 2
    assert "budget.steps" in result.stderr and "Traceback" not in result.stderr


def test_status_of_all_studies_and_of_one(launched):
    made, _ = launched
    everything, one = made.command("status"), made.command("status", "--study", "toy")
    assert "3/3" in everything.stdout and "complete" in everything.stdout
    assert "3/3 told: 3 complete, 0 pruned" in one.stdout


def test_export_writes_files(launched, tmp_path):
    made, _ = launched
    result = made.command("export", "--study", "toy", "--format", "json", "--out", tmp_path / "files")
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / "files" / "trials.json").read_text())) == 3


def test_control_verbs_reach_the_service_of_this_home(launched):
    made, _ = launched
    assert "paused" in made.command("pause", "--study", "toy").stdout
    assert made.summary()["state"] == "paused"
    assert made.command("resume", "--study", "toy").returncode == 0
    assert made.summary()["state"] == "running"
    wrong = made.command("enqueue", "--study", "toy", "optim.matrix_lr=9", "model.num_layers=2")
    assert wrong.returncode == 2 and "optim.matrix_lr" in wrong.stderr
    queued = made.command("enqueue", "--study", "toy", "optim.matrix_lr=0.03", "model.num_layers=2")
    assert queued.returncode == 0, queued.stderr
    more = made.command("launch", "--study", made.study_file(steps=STEPS))  # the target of 3 was reached before
    assert more.returncode == 0, more.stderr
    assert {"optim.matrix_lr": 0.03, "model.num_layers": 2} in [trial.params for trial in made.trials()]


def test_a_home_has_one_service(launched):
    made, _ = launched
    again = made.command("serve")
    assert again.returncode == 2 and "runs already" in again.stderr and made.client.url in again.stderr


def test_promote_asks_before_it_runs(launched):
    made, _ = launched
    result = made.command("promote", "--study", "toy")
    assert result.returncode == 2
    assert "--yes" in result.stderr and "20× the trial's" in result.stdout


def test_promote_is_killed_resumed_and_ends_as_an_unbroken_run(launched):
    made, _ = launched
    first = made.start("promote", "--study", "toy", "--tokens", "10x", "--yes")

    def under_way():
        runs = made.read(lambda results: results.study("toy").running)
        return next((run for run in runs if run.step > 60), None)

    until(under_way, "the promotion to be under way")
    family = [child.pid for child in descendants(first.pid)]
    first.kill()
    first.communicate()
    until(lambda: gone(family), "worker and trainer to notice", 40)

    resumed = made.command("promote", "--study", "toy", "--tokens", "10x", "--yes")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming promotion 0" in resumed.stdout
    run = made.read(lambda results: results.run("toy", "promotion", 0))
    assert len(run.attempts) == 2 and run.resumed_step >= 60
    steps = [int(s) for s, loss in zip(run.points.step, run.points.train_loss, strict=True) if loss == loss]
    assert steps == list(range(1, 10 * STEPS + 1))

    best = made.read(lambda results: results.study("toy").best)
    assert run.row.final_val_bpb == pytest.approx(best.val_bpb, abs=1e-12)  # the fake's score has no noise
    assert f"val_bpb {run.row.final_val_bpb:.6f}" in resumed.stdout


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(installation):
    file = installation.study_file(trials=1, steps=100)
    first = installation.start("launch", "--study", file)
    log = installation.settings.home / "logs" / "worker-0.log"
    until(lambda: log.exists() and "trial 0" in log.read_text(), "a trial to begin")
    family = [child.pid for child in descendants(first.pid)]
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=40)
    assert first.returncode == 130
    assert f"sweeper launch --study {file}" in output
    assert gone(family)
    assert "Traceback" not in output

    second = installation.command("launch", "--study", file)
    assert second.returncode == 0, second.stdout + second.stderr
    assert_nothing_lost_or_doubled(installation, 1, 100)


def test_a_study_that_pauses_itself_ends_the_launch_with_1(tmp_path):
    installation = Installation(tmp_path, crash_always=1)
    try:
        result = installation.command("launch", "--study", installation.study_file(steps=STEPS))
        assert result.returncode == 1
        assert "paused itself" in result.stdout
    finally:
        installation.close()


def test_data_prepare_makes_a_folder_that_a_study_can_name(installation):
    text = installation.folder / "corpus.txt"
    text.write_text("One small document of some words.\n" * 50)
    out = installation.folder / "tokens"
    result = installation.command("data", "prepare", text, "--val", text, "--out", out)
    assert result.returncode == 0, result.stderr
    assert (out / "manifest.json").exists() and (out / "val_000000.bin").exists()
    assert f'name = "{out}"' in result.stdout and "bytes of text" in result.stdout


def test_conversations_are_prepared_with_a_reserve_and_verified(installation):
    chats, out = installation.folder / "chats.jsonl", installation.folder / "tokens"
    chats.write_text("".join(f'{{"prompt": "Is {i} even?", "response": "{i % 2 == 0}"}}\n' for i in range(300)))
    options = ["--format", "chatml", "--tokenizer", "gpt2", "--val-fraction", "0.1", "--reserve-tokens", "500"]
    prepared = installation.command("data", "prepare", chats, "--out", out, *options)
    assert prepared.returncode == 0, prepared.stderr
    assert (
        "reserve: " in prepared.stdout
        and "<|im_end|> 50258; model.vocab_size must be at least 50,259" in prepared.stdout
    )

    verified = installation.command("data", "verify", out)
    assert verified.returncode == 0 and "all 3 shards are as they were written" in verified.stdout
    shard = bytearray((out / "reserve_000000.bin").read_bytes())
    shard[-1] ^= 1
    (out / "reserve_000000.bin").write_bytes(shard)
    refused = installation.command("data", "verify", out)
    assert refused.returncode == 2 and "reserve_000000.bin has changed since it was written" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["launch", "--study", "no-such-study"], "no-such-study"),
        (["status"], "holds no studies yet"),
        (["pause", "--study", "toy"], "no service runs"),
        (["enqueue", "--study", "toy", "optim.matrix_lr"], "PATH=VALUE"),
        (["worker", "--server", "http://127.0.0.1:1", "--device", "tpu"], "tpu"),
    ],
)
def test_wrong_input_is_a_message_and_exit_2(installation, arguments, said):
    result = installation.command(*arguments)
    assert result.returncode == 2
    assert said in result.stderr and "Traceback" not in result.stderr


def test_schema_and_version_print(installation):
    assert json.loads(installation.command("schema").stdout)["properties"]["space"]
    assert installation.command("version").stdout.strip()[0].isdigit()
    assert list(installation.folder.iterdir()) == []  # nothing is made by asking
