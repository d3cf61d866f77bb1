"""What each process has imported, read from the sys.modules of real processes after real work."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeper.scripted_service import ScriptedService
from tests.sweeper.test_worker import FAKE, grant


def imported_by(source, environment, timeout=60):
    """Top-level names in sys.modules after `source` has run in a process of its own."""
    script = f"{source}\nimport sys; print('MODULES', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES ")[2].split())


def test_a_worker_that_has_run_a_trial_knows_neither_torch_nor_database_nor_web_framework(tmp_path):
    service = ScriptedService([grant(1)])
    command = ["worker", "--server", service.url, "--study", "toy", "--device", "cpu"]
    source = f"import sys\nfrom sweeper.cli import main\nsys.argv = {['sweeper', *command]!r}\n" + (
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    names = imported_by(source, {"SWEEPER_HOME": str(tmp_path), "SWEEPER_TRAINER": FAKE})
    service.close()
    assert service.last(1)["reason"] == "complete"
    assert "httpx" in names and "sweeper" in names
    assert not names & {"torch", "optuna", "sqlalchemy", "alembic", "fastapi"}


def test_a_service_that_has_leased_a_trial_never_imported_torch(tmp_path):
    study = tmp_path / "toy.toml"
    study.write_text('trials = 2\nbudget = { steps = 5 }\nspace = { "optim.matrix_lr" = { log = [0.01, 0.1] } }\n')
    source = f"""
from fastapi.testclient import TestClient
from dashboard.app import create_app
from sweeper.study import load
with TestClient(create_app(), base_url="http://127.0.0.1") as client:
    spec = load({str(study)!r}, "cpu").model_dump(mode="json")
    def post(path, body):
        answer = client.post("/api/v1" + path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()
    post("/studies", {{"spec": spec}})
    post("/workers", dict(worker="w", host="h", pid=1, device="cpu", device_name="c"))
    assert post("/workers/w/lease", {{}})["grant"]
    for page in ("/api/v1/studies/toy", "/studies/toy", "/studies/toy/trials/0"):
        answer = client.get(page)
        assert answer.status_code == 200, (page, answer.text[:300])
"""
    names = imported_by(source, {"SWEEPER_HOME": str(tmp_path / "home")})
    assert {"optuna", "fastapi", "dashboard"} <= names
    assert "torch" not in names


def test_the_trainer_knows_torch_alone():
    names = imported_by("import trainer.__main__, trainer.loop", {})
    assert "torch" in names
    assert not names & {"optuna", "sqlalchemy", "alembic", "fastapi", "pydantic", "plotly", "sweeper", "dashboard"}


@pytest.mark.parametrize("command", ["--help", "version"])
def test_small_commands_are_free_of_heavy_imports(command):
    source = f"import sys\nfrom sweeper.cli import main\nsys.argv = ['sweeper', {command!r}]\n" + (
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not imported_by(source, {}) & {"torch", "optuna", "sqlalchemy", "fastapi", "pyarrow", "numpy"}


def test_the_fake_trainer_needs_the_standard_library_alone():
    path = Path(shlex.split(FAKE)[1])
    names = imported_by(f"import runpy; runpy.run_path({str(path)!r})", {})
    assert not names & {"torch", "sweeper", "trainer", "httpx", "pydantic"}
