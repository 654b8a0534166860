"""Which files are videos and photos, by their suffixes: the one list of the whole program."""

from __future__ import annotations

from pathlib import PurePath

MPEG = (".mp4", ".mov", ".m4v", ".3gp", ".ts", ".mts", ".mpg", ".mpeg")
VIDEOS = (*MPEG, ".mkv", ".webm", ".avi", ".wmv", ".flv", ".gif")
FRAMES = (".png", ".jpg", ".jpeg", ".webp")  # of a folder that is read like a video
PHOTOS = (*FRAMES, ".bmp", ".tif", ".tiff", ".heic", ".heif", ".hif", ".avif")
COMPANIONS = (".npy", ".pkl", ".json", ".csv", ".txt")  # may lie beside videos and photos
# What libav may take a video for, by its names of formats; a list of other files is none of them.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,apng,ivf,nut,mxf,dv,h264,hevc,"
    "m4v,mpegvideo,obu,yuv4mpegpipe,wtv"
)


def suffix_of(name: str) -> str:
    """The suffix of a file's name in small letters, with its dot."""
    return PurePath(name).suffix.lower()


def is_hidden(name: str) -> bool:
    """Whether a system put it there for itself: ``._x`` and ``.DS_Store`` of macOS, thumbnails of Windows."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini")


def is_video(name: str) -> bool:
    """Whether a file of this name is a video."""
    return suffix_of(name) in VIDEOS and not is_hidden(name)


def is_photo(name: str) -> bool:
    """Whether a file of this name is a photo."""
    return suffix_of(name) in PHOTOS and not is_hidden(name)


def is_frame(name: str) -> bool:
    """Whether a file of this name is a frame in a folder of frames."""
    return suffix_of(name) in FRAMES and not is_hidden(name)
