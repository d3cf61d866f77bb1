"""How the runs that are fitted are numbered and called: trials from 0 up, confirmation runs below 0."""

from __future__ import annotations


def number_of_confirmation(number: int) -> int:
    """Under which a confirmation run stands among the trials; the same again gives back its own."""
    return -1 - number


def run_name(number: int) -> str:
    """Of a run among the trials, in words."""
    return f"trial {number}" if number >= 0 else f"confirmation run {number_of_confirmation(number)}"
