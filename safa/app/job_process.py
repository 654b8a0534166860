"""The process that does the jobs of the page: it alone holds the model and reads uploads, in limited memory.

It gets one job at a time. A job that asks for more memory than the limit ``job_bytes`` beside the model, or
does not end when its time is over or it was cancelled, ends with this process. The page lives on, and starts
another one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from safa.app.work import Limits, ReportProgress, Workshop
from safa.errors import UserError
from safa.inference.face_animator import FaceAnimator
from safa.limits import limit, over_limit
from safa.memory import bound_growth, is_out_of_memory

log = logging.getLogger(__name__)

GRACE = 15.0  # seconds that a job has to end by itself once it is late or cancelled
LOOK_EVERY = 0.25  # seconds
REPORTING = ("animate", "swap")  # jobs that say how far they are, and that can be cancelled
NOT_BEGUN = ("cancelled", "", "It had not begun.")
FIX = "Give a smaller photo or a shorter video; who serves this page can raise the limit."


class JobProcess:
    """The page's side: starts the process, hands it jobs, and ends it. A context manager.

    Args:
        open_model: makes the model, over there; it has to be a function that can be pickled.
        limits: of uploads and jobs.
        folder: where results are written.

    Attributes:
        about: which model it is, and how faces are found.

    Raises:
        UserError: the model can't be loaded.
    """

    def __init__(self, open_model: Callable[[], FaceAnimator], limits: Limits, folder: Path) -> None:
        self._arguments, self._limits = (open_model, limits, folder), limits
        self._one_job, self._one_message = threading.Lock(), threading.Lock()
        self._session: str | None = None  # whose job runs
        self._waiting: dict[str, bool] = {}  # sessions whose job has not begun: whether it was cancelled
        self._turns = threading.Lock()  # of these two
        self._is_over = False
        self._end_at, self._end_why = 0.0, ""
        self._start()
        self.about: str = self._until_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over = True
        self._end()

    def _end(self) -> None:
        """End the process and all that it has started."""
        with suppress(ProcessLookupError):  # it has ended, or is too young to have a group of its own
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may deadlock
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._is_ready = False

    def _until_ready(self) -> str:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._broken_off() from None
        if kind != "ready":
            raise value
        self._is_ready = True
        return str(value)

    def _restart(self) -> None:
        self._end()
        if not self._is_over:
            self._start()

    def _broken_off(self) -> UserError:
        """The error of a process that is gone; another one is started."""
        self._process.join(GRACE)
        code = self._process.exitcode or 0
        self._restart()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        most = f"{limit('job_bytes'):,} bytes"
        return UserError(f"the job broke off ({how}); it may have asked for more than {most}", "", FIX)

    # ---- jobs ------------------------------------------------------------------------------------------

    def expect(self, session: str) -> None:
        """Let ``cancel`` reach a job from here on, while it still waits for its turn."""
        with self._turns:
            self._waiting[session] = False

    def do(
        self,
        job: str,
        *inputs: str | None,
        report: ReportProgress = lambda share, message: None,
        session: str = "",
        **options: bool,
    ) -> Any:
        """Do a job, the method of ``Workshop`` with this name, and return its result.

        Args:
            inputs: uploaded files; None where there is none.
            report: is called with the progress of the jobs that have one.
            session: by which ``cancel`` finds the job.
            options: of the job.

        Raises:
            UserError: an input cannot be used; or the job was cancelled, or passed a limit.
        """
        with self._one_job:
            if not self._is_ready:
                self._until_ready()
            minutes = self._limits.max_minutes
            self._end_at = time.monotonic() + 60 * minutes + GRACE
            self._end_why = f"took longer than {minutes:g} minutes"
            self._begin(session)
            try:
                self._send(job, inputs, session, options)
                return self._outcome(report)
            except UserError:
                raise
            except BaseException:  # whatever it still sends would be taken for the next job's
                self._restart()
                raise
            finally:
                self._session = None

    def _begin(self, session: str) -> None:
        with self._turns:
            if self._waiting.pop(session, False):
                raise UserError(*NOT_BEGUN)
            self._session = session

    def cancel(self, session: str) -> bool:
        """End the job of a session: at the next frame that it reads or makes, or after ``GRACE``.

        Returns:
            Whether the job had not begun, and will not.
        """
        with self._turns:
            runs = session == self._session
            waits = session in self._waiting and not runs
            if waits:
                self._waiting[session] = True
        if runs:
            self._end_at, self._end_why = min(self._end_at, time.monotonic() + GRACE), "cancelled"
            with suppress(OSError):  # it has just ended
                self._send("cancel", (), session, {})
        return waits

    def _send(self, *request: object) -> None:
        with self._one_message:
            self._pipe.send(request)

    def _outcome(self, report: ReportProgress) -> Any:
        while True:
            try:
                if not self._pipe.poll(LOOK_EVERY):
                    self._end_if_late()
                    continue
                kind, value = self._pipe.recv()
            except (EOFError, OSError):
                raise self._broken_off() from None
            if kind == "done":
                return value
            if kind == "refused":
                raise value
            if kind == "full":  # what is left of its memory may lie in pieces
                self._restart()
                raise over_limit("job_bytes", "")
            report(*value)

    def _end_if_late(self) -> None:
        if time.monotonic() > self._end_at:
            self._restart()
            raise UserError(self._end_why, "", FIX)


# ---- the process -------------------------------------------------------------------------------------------


def _serve(pipe: Connection, open_model: Callable[[], FaceAnimator], limits: Limits, folder: Path) -> None:
    """Load the model, then do one job after the other."""
    os.setpgid(0, 0)  # Ctrl-C in a terminal ends the page, and the page ends this with all that it started
    try:
        workshop = Workshop(open_model(), limits, folder)
    except UserError as error:
        pipe.send(("refused", error))
        return
    requests: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, workshop, requests), daemon=True).start()
    bound_growth(limit("job_bytes"))
    pipe.send(("ready", workshop.about))
    while True:
        pipe.send(_done(workshop, pipe, *requests.get()))


def _listen(pipe: Connection, workshop: Workshop, requests: SimpleQueue[tuple[Any, ...]]) -> None:
    """Take requests while a job runs: one may be to cancel it."""
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)  # the page is gone, however it ended
        if request[0] == "cancel":
            workshop.cancel(request[2])
        else:
            workshop.expect(request[2])  # not when it begins: a request to cancel may be here by then
            requests.put(request)


def _done(
    workshop: Workshop, pipe: Connection, job: str, inputs: Any, session: str, options: Any
) -> tuple[str, Any]:
    """Do a job; what became of it, and its result or error."""
    if job in REPORTING:
        options["session"] = session
        options["progress"] = lambda share, message: pipe.send(("progress", (share, message)))
    try:
        return "done", getattr(workshop, job)(*inputs, **options)
    except UserError as error:
        return "refused", error
    except Exception as error:
        if is_out_of_memory(error):
            return "full", None
        log.error("a job of the page failed", exc_info=error)
        what = f"this failed unexpectedly ({type(error).__name__}); the server's log has the reason"
        return "refused", UserError(what)
