"""What the parameters of a study's runs count: known in every convention where the config is whole, else as stated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sweeper.observations_facts import Recipe
from sweeper.observations_switches import PARAMS_WORDS, ParamsCount

AS_STATED = "as the runs state them, convention not known"
"""In place of the convention's words, whichever is asked for."""
ALONE: dict[ParamsCount, str] = {
    "non_embedding": "those without embedding, head and hash tables",
    "all": "all weights",
    "matrices": "2-D weights",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """The conventions in which a study's runs can be fitted."""

    known: frozenset[ParamsCount] = frozenset(PARAMS_WORDS)
    """In which some run is known; the default alone where no run says its convention, which all stand for then."""
    default: ParamsCount = "non_embedding"
    as_stated: bool = False
    """Whether no run says its convention."""

    def choices(self) -> dict[ParamsCount, str]:
        """What a reader can choose between, in words, with those that no run is known in."""
        if self.as_stated:
            return {self.default: AS_STATED}
        unsaid = " (no run says them)"
        return {name: words + ("" if name in self.known else unsaid) for name, words in PARAMS_WORDS.items()}


def counting(recipes: Iterable[Recipe]) -> Counting:
    """Of these runs: the default is the convention in which most are known, of several the first of PARAMS_WORDS."""
    known = [(recipe.counts, recipe.convention_known) for recipe in recipes if recipe.counts is not None]
    said = Counter(name for counts, sure in known if sure for name in PARAMS_WORDS if name in counts)
    if not said:
        return Counting(as_stated=True) if known else Counting()
    return Counting(known=frozenset(said), default=max(PARAMS_WORDS, key=lambda name: said[name]))


def refusal(recipe: Recipe, params: ParamsCount) -> str:
    """Why a run has no count in a convention; empty where it has one."""
    if recipe.counts is None:
        return "its number of parameters is not known"
    if params in recipe.counts:
        return ""
    return f"its parameters are known as {' and '.join(ALONE[name] for name in ALONE if name in recipe.counts)} alone"


def convention(params: ParamsCount, recipes: Iterable[Recipe]) -> str:
    """What the parameters of these runs count, in words."""
    fitted = list(recipes)
    unsure = sum(not recipe.convention_known for recipe in fitted)
    if not unsure:
        return PARAMS_WORDS[params]
    if unsure == len(fitted):
        return AS_STATED
    return f"{PARAMS_WORDS[params]}; of {unsure:,} of {len(fitted):,} runs {AS_STATED}"
