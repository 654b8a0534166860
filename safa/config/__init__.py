"""Typed settings. ``loader`` reads YAML strictly; the other modules hold the models, one subject each."""

from safa.config.loader import Settings, dump_settings, load_settings, parse_settings, settings_hash
from safa.config.locations import naming_keys
from safa.config.model import ModelConfig

__all__ = [
    "ModelConfig",
    "Settings",
    "dump_settings",
    "load_settings",
    "naming_keys",
    "parse_settings",
    "settings_hash",
]
