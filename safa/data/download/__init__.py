"""Downloading raw videos: ``http`` and ``ytdlp`` make one attempt each, ``retry`` repeats it and cleans up.

Every error ends with one of four codes. ``unavailable``: the video does not exist, which is final.
``blocked``: the host refuses us altogether, so the run stops and is resumed another day. ``rate_limited`` and
``timeout``: tried again with growing pauses, and by the next run.
"""
