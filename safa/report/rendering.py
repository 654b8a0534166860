"""Rendering: templates to pages, and scores and images to what stands in them."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from safa.config.inference import Mode
from safa.metrics import Interval, Metric
from safa.report.views import Definition

HEADINGS: dict[Mode, str] = {
    "reconstruction": "Reconstruction",
    "animation": "Animation",
    "swap": "Face swap",
    "mesh": "3D reconstruction",
}
UNKNOWN = "–"
JPEG_QUALITY = 85  # of images inside pages, 0 to 100


def render(template: str, /, **values: object) -> str:
    """Fill a template. All values are escaped; a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("safa.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "page.js")[0]
    # The page runs this script and no other, whatever else may get into it.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {"script": Markup(script), "script_hash": f"sha256-{digest}"}
    return environment.get_template(template).render(values)


def definitions(metrics: Iterable[Metric]) -> list[Definition]:
    """Define metrics; equal definitions stand there once."""
    labels: dict[str, list[str]] = {}
    for metric in metrics:
        labels.setdefault(metric.definition, []).append(metric.label)
    return [Definition("; ".join(names), text) for text, names in labels.items()]


def format_score(metric: Metric, value: float) -> str:
    """Format a score with its unit; a dash where there is none."""
    unit = f" {metric.unit}" if metric.unit and math.isfinite(value) else ""
    return f"{format_number(metric, value)}{unit}"


def format_number(metric: Metric, value: float) -> str:
    """Format a score without its unit, for tables that name it in the heading."""
    return f"{value * metric.display_scale:.{metric.digits}f}" if math.isfinite(value) else UNKNOWN


def format_interval(metric: Metric, interval: Interval) -> str:
    """Format both ends without unit; empty where there is no interval."""
    if not interval.known:
        return ""
    return f"{format_number(metric, interval.low)} to {format_number(metric, interval.high)}"


def jpeg_data_uri(image: Image.Image) -> str:
    """Encode an image as a data URI that holds the image itself."""
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
