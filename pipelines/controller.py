"""What Ray Train's controller says when a worker has died.

The controller lets a group of workers say goodbye before it starts another. Where one of them has died that
fails, as it must, and the controller prints a page of traceback for it, beside the line that says which
worker died. The traceback is left out here; the line stays.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.train import UserCallback

SAYS_GOODBYE = "ray.train.v2._internal.callbacks.backend_setup"


class ShortGoodbye(UserCallback):
    """Once a worker has failed, what the controller says of the others' goodbye has no traceback."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train in the controller's process, before it ends the workers that are left."""
        logging.getLogger(SAYS_GOODBYE).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True
