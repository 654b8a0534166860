"""The columns of stored clips and of the quarantine, and the reasons for which a clip is refused."""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

NUM_LANDMARKS = 68

# One row is a clip, or a bounded piece of one.
CLIP_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),  # person#video#start#end
        ("person_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),  # train or test
        ("start", pa.int32()),  # frames in the source at its reference rate
        ("end", pa.int32()),
        ("piece", pa.int32()),  # number of the piece in its clip
        ("n_frames", pa.int32()),  # in this row
        ("fps", pa.float32()),  # of the stored frames
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("frames", pa.list_(pa.binary())),  # encoded pictures
        (
            "landmarks",
            pa.list_(pa.list_(pa.float32(), 2 * NUM_LANDMARKS)),
        ),  # px of the stored frame; NaN: no face
        ("face_score", pa.list_(pa.float32())),  # of the detector; NaN: none was run
        ("bbox", pa.list_(pa.int32(), 4)),  # left, top, right, bottom in the source frame
        ("source", pa.string()),  # where the clip came from
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("time", pa.timestamp("ms", tz="UTC")),
    ]
)


class Code(StrEnum):
    """Why an input did not become a clip."""

    UNAVAILABLE = "unavailable"  # there is no such video, and there will be none
    BLOCKED = "blocked"  # the host refuses all of us (bot check, sign-in): stops the run
    RATE_LIMITED = "rate_limited"  # still "too many requests" after every attempt
    TIMEOUT = "timeout"  # the host did not deliver, or broke off, at every attempt
    DUPLICATE = "duplicate"  # the list has this clip in another line
    BAD_ROW = "bad_row"  # the list's line makes no sense
    DECODE = "decode"  # ffmpeg cannot read it to the end
    NO_FACE = "no_face"  # not one frame has landmarks
    NO_LANDMARKS = "no_landmarks"  # there is no landmark source for it
    TOO_SMALL = "too_small"
    TOO_SHORT = "too_short"
    BORDER = "border"  # too much of the box lies outside the frame
    UNEXPECTED = "unexpected"  # a fault of ours: the detail has its type and place


# Tried again by every run; `blocked` is never stored, since its clips have not been tried.
TRANSIENT = frozenset({Code.RATE_LIMITED, Code.TIMEOUT})


class Refused(Exception):
    """Raised while a clip is made: it goes to the quarantine with this code."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(code, detail)  # both, so that it survives the way between processes
        self.code, self.detail = code, detail

    def __str__(self) -> str:
        return self.detail
