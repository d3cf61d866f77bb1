"""Studies of real runs that ship with the package, as archives."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from sweeper.archive import SUFFIX, read_header
from sweeper.errors import SweeperError
from sweeper.space import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One packaged study."""

    name: str
    description: str
    runs: int
    path: Path


def packaged() -> list[Example]:
    """All of them, by name."""
    folder = Path(str(importlib.resources.files("sweeper"))) / "assets" / "examples"
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        header = read_header(path)
        description = str(header.spec.get("description", ""))
        name = path.name.removesuffix(SUFFIX)
        found.append(Example(name=name, description=description, runs=header.runs, path=path))
    return found


def find(name: str) -> Example:
    """
    Raises:
        SweeperError: there is none of this name.
    """
    known = {example.name: example for example in packaged()}
    if name not in known:
        raise SweeperError(f"there is no example {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}")
    return known[name]
