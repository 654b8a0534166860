"""TorchScript files: programs of other people, which their user trusts.

They run in this process without any bound, so nothing of ``safa.limits`` holds once one is loaded. What can
be done is done before: the file must be a regular one of the right kind, and its SHA-256 is shown, so that it
can be compared with what its owner published.
"""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Any

import torch

from safa.errors import UserError
from safa.files import Location, check_regular, is_file, local_file, shown
from safa.limits import check_limit
from safa.reading import boundary
from safa.unpickle.torch_file import kind_of_start

log = logging.getLogger(__name__)

_START = 512  # bytes that tell what a file is


def load_script(location: Location, device: str | torch.device, fix: str = "") -> Any:
    """Load a TorchScript file in eval mode, after a line in the log with its SHA-256.

    Args:
        fix: what the user can do if it cannot be loaded.

    Raises:
        UserError: no such file, of another kind, too large, or torch cannot load it.
    """
    where = shown(location)
    if not is_file(location):
        raise UserError("no such file", where, fix)
    with local_file(location) as path, boundary(where, "not a TorchScript file", fix):
        check_regular(path)
        with path.open("rb") as file:  # the same open file is hashed and loaded
            check_limit("weights_bytes", os.fstat(file.fileno()).st_size, where)
            kind = kind_of_start(file.read(_START))
            if kind:
                raise UserError(f"not a TorchScript file: it {kind.what}", where, kind.fix or fix)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            log.info("%s is a program that is trusted and run; SHA-256 %s", where, digest)
            file.seek(0)
            return torch.jit.load(file, map_location=device).eval()  # type: ignore[no-untyped-call]
