"""Settings of the servers that follow trainings and evaluations: MLflow and Weights & Biases."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from safa.config.loader import Settings


class MlflowConfig(Settings):
    """MLflow (the extra ``mlflow``). A server's name and password come from its own environment variables."""

    uri: str  # http://SERVER, https://SERVER, or sqlite:////FILE, written by the machine that sends
    experiment: str = Field(default="safa", min_length=1)

    @field_validator("uri")
    @classmethod
    def _is_served(cls, uri: str) -> str:
        if not re.match(r"https?://[^/]|sqlite:////[^/]", uri):
            raise ValueError("must be http://SERVER, https://SERVER or sqlite:////ABSOLUTE/FILE")
        if "@" in uri:
            raise ValueError("must have no password; MLFLOW_TRACKING_USERNAME and ..._PASSWORD have it")
        return uri


class WandbConfig(Settings):
    """Weights & Biases (the extra ``wandb``), by its environment: WANDB_API_KEY, or WANDB_MODE=offline."""

    project: str = Field(default="safa", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class TrackingConfig(Settings):
    """Who follows a run. It may change when the run is resumed."""

    mlflow: MlflowConfig | None = None
    wandb: WandbConfig | None = None
