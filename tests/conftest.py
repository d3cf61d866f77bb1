"""For every test: one thread a process, as the models are tiny and threads that wait for each other spin; and bytecode
is kept, as containers often forbid and a hundred processes would otherwise each compile the same modules."""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
