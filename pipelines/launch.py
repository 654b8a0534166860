"""Starting a pipeline: ``launch`` is the body of ``main`` in every program of this package.

They are called as ``python -m pipelines.X --config Y.yaml [--set a.b=c ...]``, by hand or by
``ray job submit``, and share flags, logging, progress lines, exit codes and the Ray session.
``python -m pipelines.launch --check cluster.yaml`` checks a file for ``ray up``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.data import DataContext
from ray.exceptions import AuthenticationError, RayError, RayTaskError, UserCodeException

from pipelines.cluster_file import check_cluster_file
from pipelines.console import without_rays_housekeeping
from pipelines.lease import job_id
from pipelines.machines import (
    CHECK_ADDRESS,
    check_address,
    cluster_address,
    forget_machines,
    local_options,
    machines_seen,
)
from pipelines.shared_folder import OUTPUT_KEYS, outputs_of, refuse_relative_outputs, refuse_unwritable
from safa.command_line import Parser
from safa.config import Settings, load_settings, naming_keys
from safa.errors import Terminated, UserError, ending_on_sigterm, run_reporting_errors, storage_error
from safa.files import absolute, location, shown
from safa.limits import VARIABLE as LIMITS_VARIABLE

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Settings)
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's name for the variable with what a job was submitted with
API_SERVER = "RAY_API_SERVER_ADDRESS"  # Ray's name for the variable with the address of the dashboard
# Ray Data keeps only the text of what a worker raised; a UserError is one line of it.
USER_ERROR = re.compile(r"^(?:safa\.errors\.UserError|[\w.]+\.WorkerOutOfMemoryError): (.+)$", re.MULTILINE)
STORAGE = re.compile(r"^(?:OSError|PermissionError): \[Errno (\d+)\] [^:\n]*(?:: '([^'\n]+)')?", re.MULTILINE)
# Ray Data logs an error that it raises as well; the program prints that.
LOGS_WHAT_IT_RAISES = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")
# Where the port of its dashboard is taken, Ray prints twenty lines of the dashboard's log; work needs none.
STARTS_SERVERS = "ray._private.services"
NO_DASHBOARD = "Failed to start the dashboard"
CHECK_HELP = "check the settings and the inputs, without work, Ray or a trace, and stop"
# Ray says that all is as it should be, as warnings.
ALL_IS_WELL = re.compile(r"Token authentication is enabled for this|Progress bars disabled")
LOGS_THAT_ALL_IS_WELL = (
    "ray._private.authentication.authentication_token_setup",
    "ray.data._internal.progress",
)


def launch(
    name: str,
    description: str,
    settings: type[S],
    body: Callable[[S], int | None],
    argv: Sequence[str] | None = None,
    *,
    check: Callable[[S], str],
    alternatives: Mapping[str, tuple[str, Callable[[S], int | None]]] | None = None,
) -> int:
    """Parse the command line, read the settings, run ``body`` with them.

    Args:
        name: of the program, as in ``python -m pipelines.NAME``.
        check: looks at settings and inputs, without Ray and without writing, and says what it saw.
        alternatives: flag -> (help, what it runs instead of ``body``).
        argv: the arguments; None = those of this process.

    Returns:
        The exit code; 2 for an error that the user can fix, which is reported in one line.
    """
    parser = Parser(prog=f"python -m pipelines.{name}", description=description)
    parser.add_argument("--config", required=True, help="YAML file with the settings, a path or a URI")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, e.g. --set size=128; may be repeated",
    )
    checking = partial(_check, check)
    flags = {"--check": (CHECK_HELP, checking), **(alternatives or {})}
    choice = parser.add_mutually_exclusive_group()
    for flag, (help_text, other) in flags.items():
        choice.add_argument(
            flag, dest="body", action="store_const", const=other, default=body, help=help_text
        )
    parser.set_defaults(body=body)
    arguments = parser.parse_args(argv)
    set_up_logging()

    def run() -> int | None:
        config = load_settings(location(arguments.config), settings, arguments.overrides)
        if arguments.body in (body, checking):
            refuse_relative_outputs(config)
        with ending_on_sigterm(), naming_keys(config, OUTPUT_KEYS):
            code: int | None = arguments.body(config)
        return code

    return run_reporting_errors(run)


def _check(check: Callable[[S], str], config: S) -> None:
    log.info("checked: %s. Nothing was written; machines were not asked for.", check(config))
    for output in outputs_of(config):
        refuse_unwritable(output)
        log.info("output will go into %s", shown(absolute(output)))


def set_up_logging() -> None:
    """Log one line per event, with the time; of Ray's own messages only warnings and errors."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    for chatty in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for name in LOGS_WHAT_IT_RAISES:
        logging.getLogger(name).addFilter(_hide)
    for name in LOGS_THAT_ALL_IS_WELL:
        logging.getLogger(name).addFilter(_is_news)
    logging.getLogger(STARTS_SERVERS).addFilter(_of_dashboard)


def _of_dashboard(record: logging.LogRecord) -> bool:
    """Say in one line that there is no dashboard, and leave out the log of it."""
    text = record.getMessage()
    if text.startswith(NO_DASHBOARD):
        record.msg, record.args = "note: Ray runs without its dashboard, which did not start", ()
        return True
    return "dashboard" not in text


def _is_news(record: logging.LogRecord) -> bool:
    return not ALL_IS_WELL.search(record.getMessage())


def _hide(record: logging.LogRecord) -> bool:
    """Keep a record out of the console; Ray's log file still gets it."""
    record.hide = True
    return True


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray for the block: to the cluster in RAY_ADDRESS, which a job has set, or to this machine.

    A session that was running before is used, and left running.

    Raises:
        UserError: one that a worker raised, as itself; or no cluster at the address, or work that Ray gave
            up because machines or memory were lost.
    """
    if ray.is_initialized():
        with reporting_ray_errors():
            yield
        return
    address, on_sigterm = cluster_address(), signal.getsignal(signal.SIGTERM)
    with _environment(address) as options, without_rays_housekeeping():
        _connect(address, options)
        _put_back(on_sigterm)
        set_up_ray_data()
        try:
            with reporting_ray_errors():
                yield
        finally:
            with suppress(RayError, ConnectionError, RuntimeError):  # the cluster may be gone
                machines_seen()
            ray.shutdown()
            _put_back(on_sigterm)


def _put_back(on_sigterm: Any) -> None:
    """Put back what answers SIGTERM: Ray has handlers that end the process without a word, or with a page."""
    if on_sigterm is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)


def set_up_ray_data() -> None:
    """Bars where somebody looks on, since our own lines read well in a log; and no work that nobody reads."""
    context = DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.memory_usage_poll_interval_s = None  # a thread in each task that asks the system every second
    context.issue_detectors_config.detectors = []  # of memory that we bound, and of stages that we watch


def _connect(address: str, options: Mapping[str, Any]) -> None:
    """Connect, and say where to look: one line with the job's id, the node and the dashboard.

    Raises:
        UserError: there is no cluster that lets us in.
        Terminated: by SIGTERM.
    """
    forget_machines()
    try:
        session = ray.init(address, logging_level=logging.WARNING, configure_logging=False, **options)
    except (ConnectionError, AuthenticationError, OSError, RuntimeError, ValueError) as error:
        if address == "local":
            fix = "Read the logs in Ray's folder (session_latest/logs), or try again."
            raise UserError(f"Ray does not start here ({_first_line(error)})", "ray", fix) from None
        raise UserError(f"cannot connect to Ray ({_first_line(error)})", address, CHECK_ADDRESS) from None
    except SystemExit:  # while it connects, Ray answers SIGTERM so
        raise Terminated("terminated") from None
    context = ray.get_runtime_context()
    log.info(
        "Ray job %s on node %s (%s); dashboard: %s",
        job_id() or context.get_job_id(),
        context.get_node_id()[:12],
        ray.util.get_node_ip_address(),
        f"http://{session.dashboard_url}" if session.dashboard_url else "none",
    )


@contextmanager
def _environment(address: str) -> Iterator[dict[str, Any]]:
    """Prepare a session. Yields what ``ray.init`` needs besides the address.

    Of a Ray that is started here, a variable names the dashboard for the time of the session. Ray's own
    helpers ask it whether an actor is alive, and without its address they look for the cluster that last ran
    on this machine, which may be dead: each training then ended 12 s late, with a page of errors.

    Raises:
        UserError: no cluster answers at the address, or none can be started here.
    """
    if address != "local":
        check_address(address)
        yield _limits_for_workers()
        return
    options = local_options()
    if API_SERVER in os.environ:
        yield options
        return
    os.environ[API_SERVER] = f"http://127.0.0.1:{options['dashboard_port']}"
    try:
        yield options
    finally:
        os.environ.pop(API_SERVER, None)


def _limits_for_workers() -> dict[str, Any]:
    """Give the workers of a cluster the limits that hold here; on this machine they inherit them.

    Ray refuses a variable that the job was submitted with, which the workers have already.
    """
    raised = os.environ.get(LIMITS_VARIABLE)
    try:
        submitted = json.loads(os.environ.get(JOB_CONFIG, "{}"))["runtime_env"]["env_vars"]
    except (ValueError, KeyError, TypeError):
        submitted = {}
    if not raised or LIMITS_VARIABLE in submitted:
        return {}
    return {"runtime_env": {"env_vars": {LIMITS_VARIABLE: raised}}}


@contextmanager
def reporting_ray_errors() -> Iterator[None]:
    """Let a ``UserError`` of a worker end the block as itself, and an error of Ray's own as a ``UserError``.

    Any other error of a worker is a bug, and keeps its traceback.

    Raises:
        UserError: in place of Ray's errors around it.
    """
    try:
        yield
    except Exception as error:
        reason = user_error_in(error)
        if reason is None or reason is error:
            raise
        raise reason from None


def user_error_in(error: BaseException) -> UserError | None:
    """The error as one line for a person; None if it is a bug, whose traceback is needed.

    Ray wraps what a worker raises: in a task's error with the original as its cause, in errors of a group of
    workers with one error each, or in one that has nothing but the text.
    """
    wrapped = list(_wrapped(error))
    for each in wrapped:
        if isinstance(each, UserError) and not isinstance(each, RayTaskError):
            return each
    for each in wrapped:
        lines = USER_ERROR.findall(str(each)) if isinstance(each, RayError) else []
        if lines:
            return UserError(lines[-1])
    for each in wrapped:
        if reason := _storage_error_of_worker(each):
            return reason
    if isinstance(error, RayError) and not any(map(_is_bug, wrapped)):
        fix = "Run the same command again; if it repeats, read the logs of Ray."
        return UserError(f"{type(error).__name__}: {_first_line(error)}", "ray", fix)
    return None


def _storage_error_of_worker(error: BaseException) -> UserError | None:
    """The line about storage that failed on a worker; of some errors, Ray keeps nothing but the text."""
    found = STORAGE.findall(str(error)) if isinstance(error, RayError) else []
    number, where = found[-1] if found else ("0", "")
    return storage_error(int(number), where)


def _wrapped(error: BaseException, depth: int = 10) -> Iterator[BaseException]:
    """The error, then all errors that it has inside."""
    yield error
    inside = [getattr(error, "cause", None), error.__cause__, *getattr(error, "worker_failures", {}).values()]
    for each in inside:
        if isinstance(each, BaseException) and depth:
            yield from _wrapped(each, depth - 1)


def _is_bug(error: BaseException) -> bool:
    return isinstance(error, RayTaskError | UserCodeException) or bool(
        getattr(error, "actor_init_failed", False)
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def honest_interrupts() -> Iterator[None]:
    """Let an interrupt of the block end the program as an interrupt.

    Ray Train responds to one by ending the process with exit code 0, as if all were well, and leaves its
    signal handler behind.

    Raises:
        KeyboardInterrupt: where the block would end the process.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.launch --check cluster.yaml``."""
    parser = Parser(
        prog="python -m pipelines.launch", description="Check a file for `ray up`; nothing is started."
    )
    parser.add_argument("--check", type=Path, required=True, metavar="FILE", help="the cluster's file")
    file = parser.parse_args(argv).check

    def check() -> None:
        check_cluster_file(file)
        sys.stdout.write(f"{file}: ready for `ray up {file}`\n")

    return run_reporting_errors(check)


if __name__ == "__main__":
    sys.exit(main())
