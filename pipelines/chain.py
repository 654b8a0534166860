"""A chain of stages that can be stopped anywhere and resumed: what is finished is not done again.

``stages.json`` in the run folder has, for each stage, a key made of its settings and of the stages before it,
the wall time of all starts together, and whether it is finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic

from pipelines.launch import honest_interrupts
from safa.config import Settings, settings_hash
from safa.errors import UserError
from safa.files import write_json

log = logging.getLogger(__name__)

FILE_NAME = "stages.json"
BEAT = 2.0  # seconds between updates of the wall time; a killed run loses less than that

Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """One stage of a chain.

    Attributes:
        settings: all that its output depends on, except for the output of the stages before it.
        not_hashed: top-level keys of ``settings`` that do not change the output.
        folder: where its output is.
        work: does or resumes the stage; it is called with the wall time of all stages so far.
    """

    name: str
    settings: Settings
    not_hashed: frozenset[str]
    folder: Path
    work: Callable[[Seconds], object]


@dataclass(frozen=True)
class Record:
    """What ``stages.json`` has of a stage that was started."""

    key: str
    seconds: float = 0.0
    done: bool = False


def run_chain(
    run: Path, stages: Sequence[Stage], session: Callable[[], AbstractContextManager[None]]
) -> dict[str, float]:
    """Run the stages that are not finished, in order. Returns the wall time of each over all starts.

    Args:
        session: the context that the stages run in; opened once, and only if there is something to do.

    Raises:
        UserError: there is output of other settings, or another process is running the chain.
    """
    run.mkdir(parents=True, exist_ok=True)
    with _locked(run):
        records = _read(run)
        keys = _keys(stages)
        _refuse_other_settings(run, stages, keys, records)
        for stage in stages:
            if stage.name not in records or not stage.folder.exists():
                records[stage.name] = Record(keys[stage.name])
        with ExitStack() as stack:
            if not all(record.done for record in records.values()):
                stack.enter_context(session())
            for number, stage in enumerate(stages, start=1):
                _run(run, records, stage, f"stage {number}/{len(stages)}: {stage.name}")
        return {stage.name: records[stage.name].seconds for stage in stages}


def _run(run: Path, records: dict[str, Record], stage: Stage, label: str) -> None:
    """Run one stage unless it is finished, and update the records."""
    if records[stage.name].done:
        log.info("==== %s: already finished, in %.0f s", label, records[stage.name].seconds)
        return
    log.info("==== %s, in %s", label, stage.folder)
    with _clock(run, records, stage.name), honest_interrupts():
        stage.work({name: record.seconds for name, record in records.items()})
    records[stage.name] = replace(records[stage.name], done=True)
    _write(run, records)
    log.info("==== %s: finished in %.0f s", label, records[stage.name].seconds)


def _keys(stages: Sequence[Stage]) -> dict[str, str]:
    keys: dict[str, str] = {}
    before = ""
    for stage in stages:
        digest = settings_hash(stage.settings, ignore=stage.not_hashed)
        before = hashlib.sha256((before + digest).encode()).hexdigest()[:16]
        keys[stage.name] = before
    return keys


def _refuse_other_settings(
    run: Path, stages: Sequence[Stage], keys: Mapping[str, str], records: Mapping[str, Record]
) -> None:
    other = [
        str(stage.folder)
        for stage in stages
        if stage.folder.exists() and stage.name in records and records[stage.name].key != keys[stage.name]
    ]
    if other:
        raise UserError(
            f"output of other settings: {', '.join(other)}",
            str(run),
            "Delete these folders to redo the stages, or choose another folder with --set run=FOLDER.",
        )


@contextmanager
def _clock(run: Path, records: dict[str, Record], name: str) -> Iterator[None]:
    """Update the stage's wall time in the file all the while, so that a killed run has it too."""
    before, began, stopped = records[name], monotonic(), threading.Event()

    def update() -> None:
        records[name] = replace(before, seconds=before.seconds + monotonic() - began)
        _write(run, records)

    def beat() -> None:
        while not stopped.wait(BEAT):
            update()

    update()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        update()


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Keep other processes out. The lock is released when this process ends, however it ends."""
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another process is using this folder", str(run), "Wait for it, or stop it."
            ) from None
        yield


def _read(run: Path) -> dict[str, Record]:
    path = run / FILE_NAME
    if not path.exists():
        return {}
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return {name: Record(**values) for name, values in plain.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError("cannot be read", str(path), "Delete it; no finished work is lost.") from None


def _write(run: Path, records: Mapping[str, Record]) -> None:
    write_json(run / FILE_NAME, {name: asdict(record) for name, record in records.items()})
