"""The programs on Ray: preprocess, train, evaluate, annotate, and the demo's chain of them."""

from __future__ import annotations

import os
import sys

# A machine that vanishes without a word (its cable, a partition) leaves calls to it open: Ray gives it up
# after half a minute, but a program may wait for its answer for seven minutes or for ever
# (ray-project/ray#63405). With these variables calls ask the other side whether it is alive, and end after
# 75 s. Ray's servers take one ping a minute: where calls are quiet, more of them end the call
# (`Too many pings`): after 50 s with pings every 10 s, after 100 s with pings every 20 s. Ray reads these
# when it is imported; cluster.yaml and deploy/ set them where Ray is started.
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "65000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}
for _name, _value in KEEPALIVE.items():
    os.environ.setdefault(_name, _value)

if not sys.stderr.isatty():  # else a log that is kept in a file, or shown by `ray job logs`, is full of codes
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
