"""A worker's UserError comes out as itself, Ray's own errors as one line, a bug with its traceback."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.exceptions as of_ray
import ray.train.v2._internal.callbacks.backend_setup as of_train
from ray.data import DataContext
from ray.train import WorkerGroupError

from pipelines import annotate
from pipelines.controller import SAYS_GOODBYE, ShortGoodbye
from pipelines.launch import (
    NO_DASHBOARD,
    STARTS_SERVERS,
    ray_session,
    reporting_ray_errors,
    set_up_logging,
    set_up_ray_data,
    user_error_in,
)
from safa.errors import Terminated, UserError

ROOT = Path(__file__).parents[3]
BLIND = UserError("node 10.0.0.5 does not see /out", "", "Mount it.")
TEXT = "Traceback\n  File x\nsafa.errors.UserError: node 10.0.0.5 does not see /out. Mount it.\n\nmore"


def _of_task(cause: Exception, text: str = "Traceback") -> of_ray.RayTaskError:
    return of_ray.RayTaskError("work", text, cause, pid=1, ip="10.0.0.5").as_instanceof_cause()


@pytest.mark.parametrize(
    "error",
    [
        _of_task(BLIND),
        _of_task(of_ray.UserCodeException("UDF failed"), TEXT),
        of_ray.UserCodeException(TEXT),
        of_ray.ActorDiedError(of_ray.RayTaskError("init", TEXT, BLIND)),
        WorkerGroupError("a worker failed", {3: _of_task(BLIND)}),
    ],
    ids=["task", "data task", "data actor", "actor init", "worker group"],
)
def test_a_user_error_of_a_worker_is_one_line(error: Exception) -> None:
    with pytest.raises(UserError) as raised, reporting_ray_errors():
        raise error
    assert str(raised.value) == str(BLIND)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("error", [of_ray.ActorDiedError(), of_ray.OutOfMemoryError("full\nof it")])
def test_what_ray_gives_up_is_one_line(error: Exception) -> None:
    with pytest.raises(UserError, match=rf"^ray: {type(error).__name__}: ") as raised, reporting_ray_errors():
        raise error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        _of_task(OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        of_ray.UserCodeException("UDF failed\nOSError: [Errno 28] No space left on device: '/out/x'"),
    ],
)
def test_storage_that_fails_on_a_worker_is_one_line(error: Exception) -> None:
    message = r"the storage fails \(no space left on device\)\. Make room"
    with pytest.raises(UserError, match=message), reporting_ray_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        _of_task(ValueError("a bug")),
        of_ray.UserCodeException("UDF failed\nValueError: a bug"),
        of_ray.ActorDiedError(of_ray.RayTaskError("init", "ValueError: a bug", ValueError("a bug"))),
        UserError("already one line"),
    ],
)
def test_bugs_keep_their_tracebacks_and_our_own_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, reporting_ray_errors():
        raise error
    assert raised.value is error
    assert isinstance(error, UserError) or user_error_in(error) is None


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"^127\.0\.0\.1:1: no Ray cluster answers \(.*refused"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("http://127.0.0.1:8265", r"job server\. RAY_ADDRESS is host:port"),
        ("ray://127.0.0.1:10001", r"address of Ray Client, .* Submit the program with `ray job submit`"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # whatever other tests have started
    with pytest.raises(UserError, match=message), ray_session():
        pytest.fail("a session with nobody")


@pytest.mark.parametrize("looked_at", [True, False])
def test_ray_data_draws_bars_where_there_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch, looked_at: bool
) -> None:
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: looked_at))
    context = DataContext()
    monkeypatch.setattr(DataContext, "get_current", lambda: context)
    set_up_ray_data()
    assert context.enable_progress_bars is looked_at
    assert context.memory_usage_poll_interval_s is None
    assert context.issue_detectors_config.detectors == []


def test_a_dashboard_that_does_not_start_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    set_up_logging()
    logging.getLogger().addHandler(caplog.handler)  # which that has replaced
    log = logging.getLogger(STARTS_SERVERS)
    log.error("Failed to start the dashboard , return code 1")
    log.error(Exception("\nThe last 20 lines of /tmp/ray/session/logs/dashboard.log (...)\nOSError: in use"))
    log.error("Failed to start something else")
    assert caplog.messages == [
        "note: Ray runs without its dashboard, which did not start",
        "Failed to start something else",
    ]
    assert NO_DASHBOARD in inspect.getsource(ray._private.services)  # what Ray says, word for word


def test_workers_that_are_left_are_ended_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger(SAYS_GOODBYE)
    assert inspect.getmodule(of_train.BackendSetupCallback).__name__ == SAYS_GOODBYE
    ShortGoodbye().after_exception(None, {0: ValueError("died")})
    try:
        log.warning("Graceful shutdown of backend failed.", exc_info=ValueError("of a dead worker"))
    finally:
        log.filters.clear()
    assert [(each.message, each.exc_info) for each in caplog.records] == [
        ("Graceful shutdown of backend failed.", None)
    ]


WAITS = """
import signal, sys, time, ray
from pipelines.launch import ray_session, set_up_logging
from safa.errors import ending_on_sigterm, run_reporting_errors

@ray.remote(num_cpus=0)
def never():
    time.sleep(600)

def body():
    with ray_session():
        pass
    try:  # after a session, too
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt as error:
        print(type(error).__name__, flush=True)
    with ray_session():
        waiting = never.remote()
        print("waits", flush=True)
        ray.get(waiting)

set_up_logging()
sys.exit(run_reporting_errors(ending_on_sigterm()(body)))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_is_stopped_ends_in_order() -> None:
    """`ray job stop` sends SIGTERM, for which Ray's core has a handler that shows a page of addresses."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert [program.stdout.readline() for _ in range(2)] == ["Terminated\n", "waits\n"]
        program.send_signal(signal.SIGTERM)
        said = program.stderr.read()
        assert program.wait(60) == 143
    assert said.splitlines()[-1] == "terminated; run the same command again to resume"
    assert "***" not in said
    assert "Traceback" not in said


STOPPED_WHILE_IT_CONNECTS = """
import os, signal, sys, threading
from pipelines.launch import ray_session, set_up_logging
from safa.errors import ending_on_sigterm, run_reporting_errors

def body():
    threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGTERM)).start()
    with ray_session():
        signal.pause()

set_up_logging()
sys.exit(run_reporting_errors(ending_on_sigterm()(body)))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 2.0, 3.0, 5.0])
def test_a_program_that_is_stopped_while_it_connects_ends_in_order(seconds: float, tmp_path: Path) -> None:
    """Until it has connected, Ray answers SIGTERM with exit code 15 or 1, and no word."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", STOPPED_WHILE_IT_CONNECTS, str(seconds)]
    with (tmp_path / "said").open("w") as said:  # no pipe, which processes of Ray would keep open
        ended = subprocess.run(command, cwd=ROOT, env=environment, stderr=said, timeout=120, check=False)
    assert ended.returncode == 143
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert last == "terminated; run the same command again to resume"


@pytest.mark.parametrize("code", [1, 15])
def test_rays_answer_to_sigterm_while_it_connects_is_an_interrupt(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*_: Any, **__: Any) -> None:
        sys.exit(code)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # another test's session may be open
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Terminated), ray_session():
        pass


def test_a_program_says_which_setting_names_what_is_not_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text("clips: nowhere\nname: sharpness\ncolumn: {kind: quality}\n")
    assert annotate.main(["--config", str(tmp_path / "job.yaml")]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: clips: nowhere: no data set here")
