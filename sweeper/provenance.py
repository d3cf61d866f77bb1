"""Which commit the code of a run is: asked of git where a process is started, as that is what it executes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DIRTY = "-dirty"
"""As `git describe --dirty` has it."""
HASH_LENGTH = 40
PATIENCE_SECONDS = 5.0


def commit_of(directory: Path) -> str:
    """The commit that is checked out in `directory`, `-dirty` behind it where tracked files below it are changed.

    Empty where git does not track anything in there: no repository, a package that was installed into a folder below
    one, no git, no commit yet, or a git that does not answer in time.  Changes elsewhere in the repository do not
    count.
    """
    if not _ask(directory, "ls-files", "--", "."):
        return ""
    said = _ask(directory, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--", ".")
    commit, dirty = "", False
    for line in said.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.rpartition(" ")[2]
        elif not line.startswith("#"):
            dirty = True
    if not commit or commit == "(initial)":
        return ""
    return commit[:HASH_LENGTH] + (DIRTY if dirty else "")


def _ask(directory: Path, *words: str) -> str:
    """What git says; empty where it cannot."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # another git may be at work there
    try:
        answer = subprocess.run(
            ["git", "-C", str(directory), *words],
            capture_output=True, text=True, errors="replace", timeout=PATIENCE_SECONDS, check=True, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout
