"""How much one input may make the program do: the bounds of all readers, and the one way to raise them.

A header claims what it likes, so a reader counts what it has really read, decoded or built, and stops when it
passes a bound. The defaults let through what phones, cameras and data sets make: 200-megapixel photos, 8K
video, ten hours of it, FLAME's model, lists of millions of clips. Whoever has more sets the environment
variable ``SAFA_LIMITS``, as in ``SAFA_LIMITS=pixels=4e8,frames=2e6``; Ray's workers get it from their driver.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache

from safa.errors import UserError

VARIABLE = "SAFA_LIMITS"
_ENTRY = re.compile(r"([a-z_]+)=([0-9.]+(?:e[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound: the ``default``, the ``unit`` it counts, and ``what`` is bounded, in a person's words."""

    default: int
    unit: str
    what: str


LIMITS = {
    "pixels": Limit(250_000_000, "px", "one photo, frame or mask, after decoding"),
    "frames": Limit(2_200_000, "frames", "one video: ten hours at 60 frames a second"),
    "seconds": Limit(40_000, "s", "the timestamps of one video"),
    "decoder_bytes": Limit(2**32, "bytes", "the memory of the process that decodes a video"),
    "decoder_seconds": Limit(120, "s", "the time until a video's next frame"),
    "encoder_bytes": Limit(2**33, "bytes", "the memory of the program that writes a video"),
    "encoder_seconds": Limit(3600, "s", "the time from a video's last frame to its finished file"),
    "job_bytes": Limit(2**33, "bytes", "the memory that a job of `safa app` takes beside the model"),
    "photo_bytes": Limit(2**30, "bytes", "one photo as a file"),
    "download_bytes": Limit(2**35, "bytes", "one downloaded video"),
    "download_seconds": Limit(43_200, "s", "the time of one download"),
    "download_pace": Limit(200, "s", "the time for each MiB of a download, and for its headers"),
    "config_bytes": Limit(2**20, "bytes", "one YAML file, or the value of one --set"),
    "config_nodes": Limit(20_000, "values", "one YAML file after its aliases are followed"),
    "record_bytes": Limit(2**26, "bytes", "one JSON file: a manifest, model.json, numbers of a report"),
    "list_bytes": Limit(2**32, "bytes", "one list of clips or pairs"),
    "list_field": Limit(4096, "characters", "one field of a list"),
    "list_rows": Limit(20_000_000, "rows", "one list of clips or pairs"),
    "array_bytes": Limit(2**30, "bytes", "one array file (.npy, .npz) after decompression"),
    "pickle_bytes": Limit(2**30, "bytes", "one pickle of landmarks or of a head"),
    "mesh_bytes": Limit(2**24, "bytes", "one OBJ file"),
    "weights_bytes": Limit(2**34, "bytes", "one file of weights"),
    "table_bytes": Limit(2**31, "bytes", "one group of rows of a Parquet file after decompression"),
    "table_ratio": Limit(1000, "times its size", "a Parquet file of more than 64 MiB after decompression"),
    "table_rows": Limit(50_000_000, "rows", "one Parquet file"),
}


@cache
def _raised(text: str) -> dict[str, int]:
    raised = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = _ENTRY.fullmatch(entry)
        if not match or match[1] not in LIMITS:
            known = ", ".join(LIMITS)
            raise UserError(
                f"{entry[:60]!a} is not a limit", VARIABLE, f"Use NAME=NUMBER with one of {known}."
            )
        try:
            raised[match[1]] = int(float(match[2]))
        except (ValueError, OverflowError):
            raise UserError(f"{match[2][:60]!a} is not a number", f"{VARIABLE}: {match[1]}") from None
    return raised


def limit(name: str) -> int:
    """The bound called ``name`` in ``LIMITS``, as the user has set it.

    Raises:
        UserError: the environment variable ``SAFA_LIMITS`` makes no sense.
    """
    return _raised(os.environ.get(VARIABLE, "")).get(name, LIMITS[name].default)


def check_limit(name: str, amount: float, where: str) -> None:
    """Refuse an input that has come to ``amount`` of what the bound ``name`` counts.

    Raises:
        UserError: that is more than the bound; the line names the bound and how to raise it.
    """
    most = limit(name)
    if amount > most:
        raise over_limit(name, where)


def over_limit(name: str, where: str) -> UserError:
    """The error of an input that passed the bound ``name``."""
    bound = LIMITS[name]
    return UserError(
        f"more than {limit(name):,} {bound.unit}, the limit for {bound.what}",
        where,
        f"If you trust the file, raise it: {VARIABLE}={name}=NUMBER.",
    )
