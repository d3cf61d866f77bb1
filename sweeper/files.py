"""Study and plan files by path or by name, and what to call them in errors."""

from __future__ import annotations

import importlib.resources
import tomllib
from pathlib import Path
from typing import Literal

from sweeper.errors import SweeperError
from sweeper.space import did_you_mean

What = Literal["study", "plan"]
PLURAL: dict[What, str] = {"study": "studies", "plan": "plans"}


def available(what: What = "study") -> list[str]:
    """Names of the study files, or of the plan files, in ./studies and among the packaged ones."""
    texts = {Path(entry.name): entry.read_bytes for entry in importlib.resources.files("studies").iterdir()}
    texts |= {Path(path.name): path.read_bytes for path in Path("studies").glob("*.toml")}
    return sorted(path.stem for path, read in texts.items() if path.suffix == ".toml" and _kind(read()) == what)


def _kind(text: bytes) -> What:
    """Plans have phases, studies have none; what is no TOML shall be found as a study, and then say so."""
    try:
        return "plan" if "phases" in tomllib.loads(text.decode()) else "study"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return "study"


def read_named(name_or_path: str, what: What = "study") -> tuple[str, str]:
    """What to call the file in messages, and its text."""
    path = Path(name_or_path)
    if path.suffix != ".toml" and len(path.parts) == 1:
        path = Path("studies", f"{name_or_path}.toml")
        packaged = importlib.resources.files("studies") / path.name
        if not path.is_file() and packaged.is_file():
            return str(path), packaged.read_text(encoding="utf-8")
    try:
        return str(path), path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        names = available(what)
        raise SweeperError(
            f"no {what} {name_or_path!r}: there is no file {path}{did_you_mean(name_or_path, names)}; "
            f"known {PLURAL[what]}: {', '.join(names) or 'none'}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SweeperError(f"cannot read the {what} file {path}: {error}") from error


def prefixed(where: str, message: str) -> str:
    """Every line of a message with the file that it is about."""
    return "\n".join(f"{where}: {line}" for line in message.splitlines())
