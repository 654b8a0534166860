"""Templates of this package to pages, and pages to files.

XXX Numbers as they are shown."""

from __future__ import annotations

import math

from jinja2 import Environment, PackageLoader, StrictUndefined

from safa.metrics import Interval, Metric


def render(template: str, /, **values: object) -> str:
    """A template with its values, as text. Everything put into it is escaped; a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("safa.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


UNKNOWN = "–"


def shown(metric: Metric, value: float) -> str:
    """A metric's value with its unit; a dash where there is none."""
    if not math.isfinite(value):
        return UNKNOWN
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{bare(metric, value)}{unit}"


def bare(metric: Metric, value: float) -> str:
    """The same without its unit, for tables that name it above."""
    return f"{value * metric.shown_times:.{metric.digits}f}" if math.isfinite(value) else UNKNOWN


def shown_interval(metric: Metric, interval: Interval) -> str:
    """Both ends without unit; empty where there is no interval."""
    return f"{bare(metric, interval.low)} to {bare(metric, interval.high)}" if interval.known else ""


def duration(seconds: float) -> str:
    """Seconds, minutes or hours as words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def count(number: int, noun: str) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def people(number: int) -> str:
    """``1 person``, ``2 people``."""
    return "1 person" if number == 1 else f"{number} people"
