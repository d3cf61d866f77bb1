"""What doctor finds on sound and on broken installations."""

import os
import platform
import socket
import sqlite3
import subprocess
import sys

import pytest

from sweeper import doctor, storage
from sweeper.settings import Settings
from sweeper.tables import LeaseRow, RunRow, StudyRow, WorkerRow
from tests.sweeper import forked


@pytest.fixture
def settings(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return Settings(home=home, storage=f"sqlite:///{home / 'sweeper.db'}")


@pytest.fixture
def engine(settings):
    made = storage.open_engine(settings.storage)
    storage.migrate(made)
    yield made
    made.dispose()


def levels(findings):
    return {finding.subject: finding.level for finding in findings}


def test_a_sound_installation_has_no_errors_and_exits_0(settings):
    done = forked.sweeper("doctor", environment={**os.environ, **settings.environment()}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for subject in ("python", "packages", "disk", "service", "data", "studies", "storage", "torch"):
        assert f" {subject}: " in done.stdout
    assert "sees" in done.stdout and "error" not in done.stdout


def test_a_database_that_cannot_be_reached_is_an_error_with_a_remedy(settings, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = Settings(home=settings.home, storage=f"postgresql://user:secret@127.0.0.1:{port}/none?connect_timeout=3")
    (finding,) = doctor.database(away)
    assert finding.level == "error" and finding.remedy
    assert "secret" not in finding.detail


def test_a_file_that_is_no_database_is_an_error(settings):
    (settings.home / "sweeper.db").write_text("not a database, " * 100)
    (finding,) = doctor.database(settings)
    assert finding.level == "error" and "not a database" in finding.detail


def test_a_wrong_storage_url_is_an_error():
    (finding,) = doctor.database(Settings(home=None, storage="mysql://host/base"))
    assert finding.level == "error" and "mysql" in finding.detail


def test_another_revision_is_a_warning(settings, engine):
    with sqlite3.connect(settings.home / "sweeper.db") as connection:
        connection.execute(f"UPDATE {storage.VERSION_TABLE} SET version_num = 'older'")
    connection.close()
    (finding,) = doctor.database(settings)
    assert finding.level == "warning" and "older" in finding.detail


def test_dead_workers_and_overdue_leases_are_found(settings, engine):
    assert levels(doctor.database(settings)) == {"storage": "ok", "workers": "ok", "leases": "ok"}
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    common = {"device": "cpu", "device_name": "c", "first_seen": 1.0, "last_seen": 1.0, "state": "busy"}
    with storage.write(engine) as session:
        session.add(WorkerRow(id="dead", host=platform.node(), pid=ended.pid, **common))
        session.add(WorkerRow(id="elsewhere", host="another-host", pid=ended.pid, **common))
        session.add(StudyRow(id=1, name="toy", spec={}, fingerprint="", created_at=1.0))
        session.flush()
        session.add(RunRow(id=1, study_id=1, kind="trial", number=0, params={}, config={}, created_at=1.0))
        session.flush()
        session.add(LeaseRow(run_id=1, worker="dead", granted_at=1.0, expires_at=2.0))
    found = {finding.subject: finding for finding in doctor.database(settings)}
    assert found["workers"].level == found["leases"].level == "warning"
    assert "dead" in found["workers"].detail and "elsewhere" not in found["workers"].detail


def test_packages_that_are_missing_or_out_of_range_are_errors():
    findings = list(doctor.packages(["numpy<1", "no-such-package-here>=1", 'ray>=1; extra == "ray"', "httpx"]))
    assert levels(findings) == {"numpy": "error", "no-such-package-here": "error"}
    assert all("pip install" in finding.remedy for finding in findings)


def test_a_gpu_that_torch_cannot_see_is_an_error():
    torch = {"torch": "2.9", "cuda": None, "devices": [], "mps": False, "threads": 2}
    assert doctor.torch_finding(torch, [], "mend").level == "ok"
    blind = doctor.torch_finding(torch, ["NVIDIA H100"], "mend")
    assert blind.level == "error" and blind.remedy == "mend"
    assert "driver" in doctor.torch_finding(torch | {"cuda": "13.0"}, ["NVIDIA H100"], "mend").remedy
