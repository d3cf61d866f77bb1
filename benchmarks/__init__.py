"""Measurements, one command each: `python -m benchmarks.NAME`.  Results go to docs/log.md with machine and date."""
