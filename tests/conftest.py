"""For every test: one thread a process, as the models are tiny and threads that wait for each other spin."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
