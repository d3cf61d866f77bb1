"""When a full run counts as a success: the plan's criteria.  Pydantic alone, so that `protocol` can hold them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SuccessCriteria(BaseModel):
    """What `sweeper.success` asks of a promotion. None leaves a criterion out."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    active_parameters: int | None = Field(default=None, gt=0)
    """Active parameters that the model was planned with; see `success.active_parameters` for what counts."""
    tokens: int | None = Field(default=None, gt=0)
    """Targets to train in the phases of kind `pretrain`."""
    tokens_tolerance: float = Field(default=0.1, ge=0, lt=1)
    """Share by which trained targets, and tokens per active parameter, may be off either way."""
    hours: float | None = Field(default=None, gt=0)
    """Most hours for which devices are held, set-up and validation included."""
    reference_val_ppl: float | None = Field(default=None, gt=0)
    """Perplexity of a reference run on the same validation set with the same tokenizer: nobody can check that here."""
    ppl_factor: float = Field(default=1.2, gt=0)
    """The run's perplexity must lie below this many times the reference's."""
    saturation: float | None = Field(default=0.9, gt=0, le=1)
    """Least saturation; see `sweeper.saturation` for which of the two definitions counts."""
    tokens_per_active: float | None = Field(default=109.0, gt=0)
    """Targets to train per active parameter; also what 100 % token saturation is."""
    skipped_batches: int = Field(default=0, ge=0)
    """Most batches that may be left out because their loss or gradients were not finite."""
