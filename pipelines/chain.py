"""A chain of stages that can be stopped anywhere and resumed: what is finished is not done again.

``stages.json`` in the run folder has, for each stage, a key made of its settings and of the stages before it,
the wall time of all starts together, and whether it is finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import Any

from pipelines.launch import honest_interrupts
from pipelines.lease import exclusive
from pipelines.machines import Need, check_room
from pipelines.run_folder import differences, has_output, in_words
from safa.config import Settings, settings_hash
from safa.errors import UserError
from safa.files import Location, exists, is_uri, join, read_bytes, reporting_errors, shown, write_json

log = logging.getLogger(__name__)

FILE_NAME = "stages.json"
BEAT = 2.0  # seconds between updates of the wall time; a killed run loses less than that
BEAT_OF_STORE = 60.0  # the same in an object store, where each update is a request

Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """One stage of a chain.

    Attributes:
        settings: all that its output depends on, except for the output of the stages before it.
        not_hashed: top-level keys of ``settings`` that do not change the output.
        folder: where its output is.
        work: does or resumes the stage; it is called with the wall time of all stages so far.
        needs: gives what it needs of the machines, for which no stage before it should have run in vain.
    """

    name: str
    settings: Settings
    not_hashed: frozenset[str]
    folder: Location
    work: Callable[[Seconds], object]
    needs: Callable[[], Sequence[Need]] = tuple  # of machines, looked at before the first stage


@dataclass(frozen=True)
class Record:
    """What ``stages.json`` has of a stage that was started; ``settings`` are for people, the key decides."""

    key: str
    seconds: float = 0.0
    done: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def run_chain(
    run: Location, stages: Sequence[Stage], session: Callable[[], AbstractContextManager[None]]
) -> dict[str, float]:
    """Run the stages that are not finished, in order. Returns the wall time of each over all starts.

    Args:
        session: the context that the stages run in; opened once, and only if there is something to do.

    Raises:
        UserError: there is output of other settings, or another program is at work in the run folder.
    """
    with exclusive(run):
        records = _read(run)
        keys = _keys(stages)
        _refuse_other_settings(run, stages, keys, records)
        for stage in stages:
            if stage.name not in records or not has_output(stage.folder):
                settings = stage.settings.model_dump(mode="json")
                records[stage.name] = Record(keys[stage.name], settings=settings)
        with ExitStack() as stack:
            if not all(record.done for record in records.values()):
                stack.enter_context(session())
                left = [stage for stage in stages if not records[stage.name].done]
                check_room(*(need for stage in left for need in stage.needs()))
            for number, stage in enumerate(stages, start=1):
                _run(run, records, stage, f"stage {number}/{len(stages)}: {stage.name}")
        return {stage.name: records[stage.name].seconds for stage in stages}


def check_chain(run: Location, stages: Sequence[Stage]) -> None:
    """Refuse a run folder that holds output of other settings; nothing is written.

    Raises:
        UserError: it does.
    """
    _refuse_other_settings(run, stages, _keys(stages), _read(run))


def _run(run: Location, records: dict[str, Record], stage: Stage, label: str) -> None:
    """Run one stage unless it is finished, and update the records."""
    if records[stage.name].done:
        log.info("==== %s: already finished, in %.0f s", label, records[stage.name].seconds)
        return
    log.info("==== %s, in %s", label, shown(stage.folder))
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
    run: Location, stages: Sequence[Stage], keys: Mapping[str, str], records: Mapping[str, Record]
) -> None:
    """Name the folders in the way, and of each the settings that differ; a later one may have none."""
    other = [
        shown(stage.folder) + in_words(_differing(stage, records[stage.name]))
        for stage in stages
        if stage.name in records and records[stage.name].key != keys[stage.name] and has_output(stage.folder)
    ]
    if other:
        raise UserError(
            f"output of other settings: {', '.join(other)}",
            shown(run),
            "Delete these folders to redo the stages, or choose another folder with --set run=FOLDER.",
        )


def _differing(stage: Stage, record: Record) -> list[str]:
    if not record.settings:  # of an older version
        return []
    return differences(record.settings, stage.settings.model_dump(mode="json"), stage.not_hashed)


@contextmanager
def _clock(run: Location, records: dict[str, Record], name: str) -> Iterator[None]:
    """Update the stage's wall time in the file all the while, so that a killed run has it too."""
    before, began, stopped = records[name], monotonic(), threading.Event()

    def update() -> None:
        records[name] = replace(before, seconds=before.seconds + monotonic() - began)
        _write(run, records)

    def beat() -> None:
        while not stopped.wait(BEAT_OF_STORE if is_uri(run) else BEAT):
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


def _read(run: Location) -> dict[str, Record]:
    path = join(run, FILE_NAME)
    if not exists(path):
        return {}
    with reporting_errors(path):
        text = read_bytes(path)
    try:
        plain = json.loads(text)
        return {name: Record(**values) for name, values in plain.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError("cannot be read", shown(path), "Delete it; no finished work is lost.") from None


def _write(run: Location, records: Mapping[str, Record]) -> None:
    write_json(join(run, FILE_NAME), {name: asdict(record) for name, record in records.items()})
