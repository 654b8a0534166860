"""The page itself: what stands where, and what each button does."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safa.app.guard import LOOPBACK, Guard, is_loopback
from safa.app.job_process import NOT_BEGUN, JobProcess
from safa.app.work import Limits, Result, make_example
from safa.errors import Terminated, UserError
from safa.inference.face_animator import FaceAnimator
from safa.inference.options import ADAPT_SCALE, RELATIVE
from safa.messages import INSTALL_APP
from safa.reading import read_text_limited

log = logging.getLogger(__name__)

TITLE = "SAFA: face animation"
INTRO = (
    "Animate the face in a photo with the motion of a video. Use it only with the consent of the people "
    "shown; every file that is written is marked as synthetic."
)
CROP = "Find the face"
CROP_INFO = "Otherwise the centre square is used."
# What messages say in options, in the words of the page.
IN_PAGE_WORDS = {"crop=False": f"“{CROP}” off", "relative=True": "“Relative motion” on"}
# Options keep a width in which they can be read, and as many stand in a line as have it.
CSS = """
.gradio-container {max-width: 1180px !important; margin: auto}
footer {display: none !important}
.form {flex-wrap: wrap !important}
.form > .block {flex: 1 1 13rem !important; min-width: min(13rem, 100%) !important}
.moving video {max-height: 230px}  /* or the buttons below it are cut off */
button[role=tab].selected {color: var(--body-text-color) !important}
"""
WIDTH = 240  # px, least of a picture: on a phone each has a line of its own
MODEL = "model"  # one job at a time uses it
QUEUE_LENGTH = 16  # jobs that may wait for it; more are refused
WORKING = "Working ..."


@dataclass(frozen=True)
class Address:
    """Where the page is served, and to whom.

    Attributes:
        host: address of this machine.
        port: of it.
        names: further names that the page may be reached by.
        auth: file with ``USER:PASSWORD``; None asks for neither.
    """

    host: str
    port: int
    names: tuple[str, ...] = ()
    auth: Path | None = None

    def login(self) -> tuple[str, str] | None:
        """Return user and password; None if nobody is asked.

        Raises:
            UserError: strangers could reach the page without a password, or the file holds none.
        """
        if self.auth is None:
            if is_loopback(self.host):
                return None
            fix = "Add --auth FILE, a file with USER:PASSWORD, or serve at 127.0.0.1."
            raise UserError("strangers could use this machine", f"--host {self.host}", fix)
        try:
            user, colon, password = read_text_limited(self.auth, "config_bytes").strip().partition(":")
        except UserError as error:
            raise UserError(f"cannot be read ({error.what})", str(self.auth), "Give a text file.") from None
        if not (user and colon and password):
            raise UserError("does not hold USER:PASSWORD", str(self.auth), "Write one line of this form.")
        return user, password

    def check_free(self) -> None:
        """Refuse a port where nobody can be served, before a model is loaded.

        Raises:
            UserError: another program serves there, or the host is none of this machine's.
        """
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(where)
        except OSError as error:
            what = f"cannot serve there ({error.strerror})"
            raise UserError(what, f"{self.host}:{self.port}", "Give another --port.") from None


def serve(open_model: Callable[[], FaceAnimator], limits: Limits, address: Address) -> None:
    """Load the model, then serve the page until Ctrl-C or SIGTERM; uploads and results are removed then.

    Args:
        open_model: makes the model in a process of its own, so it must be a function that can be pickled.

    Raises:
        UserError: Gradio is missing, the model can't be loaded, the port is in use, or strangers could reach
            the page without a password.
    """
    login = address.login()
    address.check_free()
    host, port = address.host, address.port
    if importlib.util.find_spec("gradio") is None:
        raise UserError("Gradio is not installed", "safa app", f"Install it: {INSTALL_APP}.")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, or it calls home
    with (
        tempfile.TemporaryDirectory(prefix="safa-app-") as folder,
        JobProcess(open_model, limits, Path(folder)) as jobs,
    ):
        # Gradio's copies of uploads are deleted with our files when the server stops.
        uploads = Path(folder) / "uploads"
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        page = build_page(jobs, limits, Path(folder) / "example")
        page.queue(max_size=QUEUE_LENGTH, api_open=False)
        guarded = partial(
            _guarded,
            hosts=(*LOOPBACK, host, *address.names),
            uploads=uploads,
            upload_bytes=round(limits.max_mb * 1e6),
        )
        signal.signal(signal.SIGTERM, _terminate)
        sys.stdout.write(f"serving at http://{host}:{port} until Ctrl-C\n")
        sys.stdout.flush()
        try:
            page.launch(
                quiet=True,
                server_name=host,
                auth=login,
                app_kwargs={"lifespan": guarded, "docs_url": None, "redoc_url": None},
                server_port=port,
                share=False,
                max_file_size=f"{limits.max_mb:g}mb",
                allowed_paths=[folder],
                theme=_theme(),
                css=CSS,
                footer_links=[],
                ssr_mode=False,
            )
        except OSError as error:
            fix = "Give another --port."
            raise UserError(f"cannot serve there ({error})", f"{host}:{port}", fix) from None


@asynccontextmanager
async def _guarded(
    app: Any, *, hosts: tuple[str, ...], uploads: Path, upload_bytes: int
) -> AsyncIterator[None]:
    """Put the guard around everything, Gradio's own middleware included, which would answer strangers."""
    app.middleware_stack = Guard(app.middleware_stack, hosts, uploads, upload_bytes)
    yield


def _terminate(*_: object) -> None:
    raise Terminated("terminated")


def build_page(jobs: JobProcess, limits: Limits, examples: Path) -> Any:
    """Build the page as ``gradio.Blocks`` without serving it."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# {TITLE}\n{INTRO}")
        gr.Markdown(f"{jobs.about[:1].upper()}{jobs.about[1:]}.", elem_id="about")
        gr.Markdown(f"Videos of up to {limits.max_seconds:g} s, files of up to {limits.max_mb:g} MB.")
        with gr.Tab("Animate"):
            _animate_tab(gr, jobs, examples)
        with gr.Tab("Swap"):
            _swap_tab(gr, jobs, examples)
        with gr.Tab("3D head"):
            _head_tab(gr, jobs, examples)
    return page


def _animate_tab(gr: Any, jobs: JobProcess, examples: Path) -> None:
    photo, video, example, preview, seen = _inputs(gr)
    with gr.Row():
        relative = _option(gr, RELATIVE, label="Relative motion")
        adapt = _option(gr, ADAPT_SCALE, label="Adapt to face size", info="With relative motion.")
        best = _option(gr, False, label="Find the best frame", info="With relative motion.")
        eyes = _option(gr, False, label="Eyes from the photo")
    with gr.Row():
        crop = _option(gr, True, label=CROP, info=CROP_INFO)
        back = _option(gr, False, label="Paste back into the whole photo")
        grid = _option(gr, False, label="Show all intermediate results")
        beside = _option(gr, False, label="Source, driving video and result side by side")
    run, cancel = _buttons(gr, "Animate", "animate")
    driving, result, second, download, message = _outputs(gr, "animate")

    def work(request: gr.Request, *values: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        names = ("relative", "adapt_scale", "find_best_frame", "with_eyes", "paste_back", "crop", "grid")
        options = dict(zip((*names, "side_by_side"), values[2:], strict=True))
        session = str(request.session_hash)
        return _shown(
            gr,
            values[1],
            lambda: jobs.do("animate", *values[:2], report=progress, session=session, **options),
        )

    inputs = [photo, video, relative, adapt, best, eyes, back, crop, grid, beside]
    work.__annotations__["request"] = gr.Request
    outputs = [driving, result, second, download, message]
    _connect(gr, jobs, (photo, video, preview, seen, message))
    _run_with(gr, jobs, examples, (run, cancel, example), crop, work, inputs, outputs)


def _swap_tab(gr: Any, jobs: JobProcess, examples: Path) -> None:
    photo, video, example, preview, seen = _inputs(gr)
    with gr.Row():
        crop = _option(gr, True, label=CROP, info=CROP_INFO)
        grid = _option(gr, False, label="Show all intermediate results")
        beside = _option(gr, False, label="Source, driving video and result side by side")
    run, cancel = _buttons(gr, "Swap", "swap")
    driving, result, second, download, message = _outputs(gr, "swap")

    def work(request: gr.Request, *values: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        options = dict(zip(("crop", "grid", "side_by_side"), values[2:], strict=True))
        session = str(request.session_hash)
        return _shown(
            gr,
            values[1],
            lambda: jobs.do("swap", *values[:2], report=progress, session=session, **options),
        )

    work.__annotations__["request"] = gr.Request
    outputs = [driving, result, second, download, message]
    _connect(gr, jobs, (photo, video, preview, seen, message))
    inputs = [photo, video, crop, grid, beside]
    _run_with(gr, jobs, examples, (run, cancel, example), crop, work, inputs, outputs)


def _head_tab(gr: Any, jobs: JobProcess, examples: Path) -> None:
    with gr.Row():
        photo = _photo(gr)
        fixed = {"interactive": False, "height": 300, "min_width": WIDTH}
        overlay = gr.Image(label="Photo with the head over it", **fixed)
        turntable = gr.Video(label="Turntable", loop=True, **fixed)
    with gr.Row():
        example = gr.Button("Run an example", size="sm")
        crop = _option(gr, True, label=CROP, info=CROP_INFO)
    run, cancel = _buttons(gr, "Reconstruct", "head")
    message = gr.Markdown(elem_id="head-message")
    download = gr.DownloadButton("Download mesh, texture and landmarks (.zip)")

    def work(request: gr.Request, path: str | None, find: bool) -> Any:
        try:
            result = jobs.do("reconstruct", path, session=str(request.session_hash), crop=find)
        except Exception as error:
            return gr.skip(), gr.skip(), gr.skip(), _error_line(error)
        return str(result.overlay), str(result.turntable), str(result.archive), result.message

    work.__annotations__["request"] = gr.Request
    outputs = [overlay, turntable, download, message]
    _run_with(gr, jobs, examples, (run, cancel, example), crop, work, [photo, crop], outputs)


def _option(gr: Any, value: bool, label: str, info: str | None = None) -> Any:
    """Add a checkbox; ``CSS`` gives each a line of its own on a phone."""
    return gr.Checkbox(value, label=label, info=info)


def _buttons(gr: Any, label: str, name: str) -> tuple[Any, Any]:
    """Add the buttons that start a job and end it."""
    with gr.Row():
        run = gr.Button(label, variant="primary", elem_id=f"{name}-run", scale=4)
        cancel = gr.Button("Cancel", elem_id=f"{name}-cancel", scale=1)
    return run, cancel


def _run_with(
    gr: Any,
    jobs: JobProcess,
    examples: Path,
    buttons: tuple[Any, Any, Any],
    crop: Any,
    work: Any,
    inputs: list[Any],
    outputs: list[Any],
) -> None:
    """Let a job start by its button or with the example, and end by another button."""
    run, cancel, example = buttons
    files = inputs[: inputs.index(crop)][:2]  # a photo, and a video where one is needed
    message = outputs[-1]

    def begin(request: gr.Request) -> str:
        jobs.expect(str(request.session_hash))
        return WORKING

    def load(request: gr.Request) -> tuple[str | bool, ...]:
        jobs.expect(str(request.session_hash))
        example_files = make_example(examples)
        paths = (str(example_files.photo), str(example_files.video))[: len(files)]
        return *paths, False, WORKING

    def stop(request: gr.Request) -> Any:
        is_over = jobs.cancel(str(request.session_hash))
        return _error_line(UserError(*NOT_BEGUN)) if is_over else gr.skip()  # a running job says it itself

    for function in (begin, load, stop):
        function.__annotations__["request"] = gr.Request
    start = run.click(begin, None, message)
    start.then(work, inputs, outputs, concurrency_id=MODEL)
    cancel.click(stop, None, message, queue=False, show_progress="hidden")
    loaded = example.click(load, None, [*files, crop, message])
    loaded.then(work, inputs, outputs, concurrency_id=MODEL)


def _inputs(gr: Any) -> tuple[Any, ...]:
    """Add photo, video, and a preview of what the model will see."""
    with gr.Row():
        photo = _photo(gr)
        video = gr.Video(
            label="Video", height=300, sources=["upload", "webcam"], elem_classes="moving", min_width=WIDTH
        )
        # As it is, too: Gradio would convert it, or fail on a broken one without a word.
        video.preprocess = lambda payload: None if payload is None else payload.path
        seen = gr.Gallery(
            label="What the model will see", columns=2, height=300, object_fit="contain", min_width=WIDTH
        )
    with gr.Row():
        example = gr.Button("Run an example", size="sm")
        preview = gr.Button("Preview crop and landmarks", size="sm")
    return photo, video, example, preview, seen


def _photo(gr: Any) -> Any:
    sources = ["upload", "clipboard"]
    photo = gr.Image(
        label="Photo", type="filepath", image_mode=None, height=300, sources=sources, min_width=WIDTH
    )
    # Keep the file as it is: Gradio would fail on a bad one, and convert others silently.
    photo.preprocess = lambda payload: None if payload is None else payload.path
    return photo


def _outputs(gr: Any, name: str) -> tuple[Any, ...]:
    """Add a message, the result beside the driving video, and a download."""
    from gradio.data_classes import FileData

    message = gr.Markdown(elem_id=f"{name}-message")
    with gr.Row():
        driving = gr.Video(label="Driving video", interactive=False, height=340, min_width=WIDTH)
        # As it is: where ffmpeg is installed, Gradio would run it on an upload, without a bound.
        driving.postprocess = lambda value: None if value is None else FileData(path=str(value))
        options = {"elem_id": f"{name}-result", "autoplay": True, "min_width": WIDTH}
        result = gr.Video(label="Result", interactive=False, height=340, **options)
    second = gr.Video(label="Intermediate results", interactive=False, visible=False)
    download = gr.DownloadButton("Download the result", elem_id=f"{name}-download")
    return driving, result, second, download, message


def _second(gr: Any, path: Path | None) -> Any:
    return gr.update(value=None if path is None else str(path), visible=path is not None)


def _connect(gr: Any, jobs: JobProcess, parts: tuple[Any, ...]) -> None:
    """Connect the button for the preview."""
    photo, video, preview, seen, message = parts

    def look(image: str | None, moving: str | None) -> Any:
        try:
            return jobs.do("preview", image, moving), ""
        except Exception as error:
            return gr.skip(), _error_line(error)

    preview.click(look, [photo, video], [seen, message], concurrency_id=MODEL)


def _shown(gr: Any, driving: str | None, work: Callable[[], Result]) -> tuple[Any, ...]:
    """Run a job; what it made is shown, or a line that says why there is nothing. Errors cover nothing."""
    try:
        result = work()
    except Exception as error:
        return gr.skip(), gr.skip(), gr.skip(), gr.skip(), _error_line(error)
    message = in_page_words(result.message)
    return driving, str(result.video), _second(gr, result.grid), str(result.video), message


def _error_line(error: Exception) -> str:
    """Say what went wrong in the page's words, never with an empty line or a path of the server."""
    if isinstance(error, UserError):
        where = Path(error.where).name  # the user knows the file's name, not where the page keeps it
        line = str(UserError(error.what, where, error.fix))
    else:
        log.error("a job of the page failed", exc_info=error)
        line = f"this failed unexpectedly ({type(error).__name__}); the server's log has the reason"
    return f"**Error:** {in_page_words(line)}"


def in_page_words(text: str) -> str:
    """Say in the page's words what a message says in options."""
    for option, words in IN_PAGE_WORDS.items():
        text = text.replace(option, words)
    return text


def _theme() -> Any:
    """Use the system's fonts, so that the page needs no network, and colours with contrast (WCAG: 4.5)."""
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    return gr.themes.Soft(font=fonts, font_mono=["ui-monospace", "monospace"]).set(
        block_label_text_color="*primary_700",
        body_text_color_subdued="*neutral_600",
        button_primary_background_fill="*primary_600",
        checkbox_border_color="*neutral_500",
    )
