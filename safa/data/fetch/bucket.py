"""Videos from object stores (s3, gs) or other mounts, through pyarrow's file systems."""

from __future__ import annotations

from pathlib import Path

from safa.config.preprocess import UrlFetch
from safa.data.places import copy_object


class BucketFetcher:
    """A ``Fetcher`` over a template such as ``s3://bucket/{video_id}.mp4``."""

    def __init__(self, config: UrlFetch) -> None:
        self._url = config.url

    def get(self, video_id: str, part: Path) -> None:
        """Copy the object to ``part``."""
        copy_object(self._url.replace("{video_id}", video_id), part)
