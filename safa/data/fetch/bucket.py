"""Videos from object stores (s3, gs) or other mounts, through pyarrow's file systems."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from safa.config.preprocess import UrlFetch
from safa.data.schema import Code, Refused


class BucketFetcher:
    """A ``Fetcher`` over a template such as ``s3://bucket/{video_id}.mp4``.

    Credentials and region are those of the environment, as pyarrow reads them.
    """

    def __init__(self, config: UrlFetch) -> None:
        self._url = config.url

    def get(self, video_id: str, part: Path) -> None:
        """Copy the object to ``part``."""
        try:
            store, path = fs.FileSystem.from_uri(self._url.replace("{video_id}", video_id))
            with store.open_input_stream(path) as source, part.open("wb") as file:
                shutil.copyfileobj(source, file)
        except FileNotFoundError:
            raise Refused(Code.UNAVAILABLE, "no such object") from None
        except PermissionError as error:
            raise Refused(Code.BLOCKED, f"the store refuses us: {error}") from None
        except (OSError, pa.ArrowException) as error:
            # pyarrow tells a refusal of S3 apart only in words.
            denied = "ACCESS_DENIED" in str(error) or "AccessDenied" in str(error)
            code = Code.BLOCKED if denied else Code.TIMEOUT
            raise Refused(code, f"{type(error).__name__}: {error}") from None
