"""Finished trials of Optuna under a wider axis.

All trials of a study must have one distribution of choices, one kind of distribution, one scale: Optuna refuses a
trial that has another, and has no verb to change those that are there.  The values of an imported study are facts and
not draws, so its trials are rewritten in Optuna's own tables as if all runs had been imported at once: their values
stay, but for the place of a choice among the choices.  Ranges that only grow need nothing, as Optuna lets them differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from sqlalchemy import ColumnElement, Float, ScalarSelect, Text, case, column, literal, select, table, update
from sqlalchemy.orm import Session

# Of Optuna's tables (its storages/_rdb/models.py) what is needed here, on our connection and in our transaction.
STUDIES = table("studies", column("study_id"), column("study_name"))
TRIALS = table("trials", column("trial_id"), column("study_id"))
PARAMS = table(
    "trial_params", column("trial_id"), column("param_name"), column("param_value", Float), column("distribution_json")
)
ATTRIBUTES = table("trial_user_attributes", column("trial_id"), column("key"))


def foreign_to(session: Session, name: str, key: str) -> bool:
    """Whether Optuna's study has a trial without the user attribute `key`."""
    marked = select(ATTRIBUTES.c.trial_id).where(ATTRIBUTES.c.key == key)
    found = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == _study(name), TRIALS.c.trial_id.not_in(marked))
    return session.execute(found.limit(1)).first() is not None


def recode(
    session: Session, name: str, old: Mapping[str, BaseDistribution], new: Mapping[str, BaseDistribution]
) -> list[str]:
    """Rewrite the trials of Optuna's study whose distribution is no longer compatible; the parameters concerned.

    Raises:
        ValueError: a choice that has no value under the new distribution.
    """
    changed = [parameter for parameter in new if not _compatible(old[parameter], new[parameter])]
    for parameter in changed:
        before, after = old[parameter], new[parameter]
        values: dict[str, ColumnElement[Any]] = {"distribution_json": literal(distribution_to_json(after), Text)}
        if isinstance(before, CategoricalDistribution):
            moved = {place: after.to_internal_repr(choice) for place, choice in enumerate(before.choices)}
            values["param_value"] = case(moved, value=PARAMS.c.param_value, else_=PARAMS.c.param_value)
        trials = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == _study(name))
        session.execute(
            update(PARAMS).where(PARAMS.c.trial_id.in_(trials), PARAMS.c.param_name == parameter).values(values)
        )
    return changed


def _study(name: str) -> ScalarSelect[int]:
    return select(STUDIES.c.study_id).where(STUDIES.c.study_name == name).scalar_subquery()


def _compatible(old: BaseDistribution, new: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(old, new)
    except ValueError:
        return False
    return True
