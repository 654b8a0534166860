"""The format of the data set: columns of stored clips and of the quarantine, and clip ids.

A clip id is ``person#video#start#end``, frames at the source's reference rate with six digits each. Ids come
from metadata files and so from anywhere: each is checked before it becomes part of a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

NUM_LANDMARKS = 68
FARTHEST = 1e6  # px of a landmark from its picture: more is damage
SYNTHETIC_PERSON = re.compile(r"synth[0-9]{5}")  # id of a person of safa.synthetic

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


# No separator, no path character, no leading dot: safe as a file name on every system. A leading dash is
# allowed, since one YouTube id in 64 has it: names become arguments only behind a folder or a scheme.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_CLIP = re.compile(rf"({_NAME.pattern})#({_NAME.pattern})#([0-9]{{6,9}})#([0-9]{{6,9}})")


def is_safe_name(name: str) -> bool:
    """Whether a person or video id may become part of a file name."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class ClipId:
    """A clip's parts; ``start`` and ``end`` (exclusive) are frames of the source at its reference rate."""

    person_id: str
    video_id: str
    start: int
    end: int

    def __post_init__(self) -> None:
        for name in (self.person_id, self.video_id):
            if not is_safe_name(name):
                raise ValueError(f"{name!r} cannot be part of a clip id")
        if not 0 <= self.start < self.end < 10**9:
            raise ValueError(f"frames {self.start} to {self.end} are not a range")

    def __str__(self) -> str:
        return f"{self.person_id}#{self.video_id}#{self.start:06d}#{self.end:06d}"

    @classmethod
    def parse(cls, text: str) -> ClipId:
        """Parse what ``str`` gives.

        Raises:
            ValueError: not of that form.
        """
        match = _CLIP.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not person#video#start#end")
        clip = cls(match[1], match[2], int(match[3]), int(match[4]))
        if str(clip) != text:  # two ids that differ in zeros would be one clip
            raise ValueError(f"{text!r} has more zeros than {clip}")
        return clip
