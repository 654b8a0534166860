"""The page itself: what stands where, and what each button does."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safa.app.work import Limits, Workshop, make_example
from safa.errors import UserError
from safa.inference.face_animator import FaceAnimator
from safa.messages import INSTALL_APP

Value = TypeVar("Value")

TITLE = "SAFA: face animation"
INTRO = (
    "Animate the face in a photo with the motion of a video. Use it only with the consent of the people "
    "shown; every file that is written is marked as synthetic."
)
CROP = "Find the face (otherwise the centre square is used)"
CSS = ".gradio-container {max-width: 1180px !important; margin: auto} footer {display: none !important}"
MODEL = "model"  # one job at a time uses it


def serve(open_model: Callable[[], FaceAnimator], limits: Limits, host: str, port: int) -> None:
    """Load the model, then serve the page until Ctrl-C.

    Raises:
        UserError: Gradio is missing, the model can't be loaded, or the port is in use.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("Gradio is not installed", "safa app", f"Install it: {INSTALL_APP}.")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported, or it calls home
    with tempfile.TemporaryDirectory(prefix="safa-app-") as folder:
        # Gradio's copies of uploads are deleted with our files when the server stops.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        workshop = Workshop(open_model(), limits, Path(folder))
        page = build_page(workshop, limits, Path(folder) / "example")
        sys.stdout.write(f"serving at http://{host}:{port} until Ctrl-C\n")
        sys.stdout.flush()
        try:
            page.launch(
                quiet=True,
                server_name=host,
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


def build_page(workshop: Workshop, limits: Limits, examples: Path) -> Any:
    """Build the page as ``gradio.Blocks`` without serving it."""
    import gradio as gr

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# {TITLE}\n{INTRO}")
        gr.Markdown(f"Videos of up to {limits.max_seconds:g} s, files of up to {limits.max_mb:g} MB.")
        with gr.Tab("Animate"):
            _animate_tab(gr, workshop, examples)
        with gr.Tab("Swap"):
            _swap_tab(gr, workshop, examples)
        with gr.Tab("3D head"):
            _head_tab(gr, workshop, examples)
    return page


def _animate_tab(gr: Any, workshop: Workshop, examples: Path) -> None:
    photo, video, example, preview, seen = _inputs(gr)
    with gr.Row():
        relative = gr.Checkbox(True, label="Relative motion")
        adapt = gr.Checkbox(True, label="Adapt to face size")
        best = gr.Checkbox(False, label="Measure motion from the frame most like the photo")
        eyes = gr.Checkbox(False, label="Eyes from the photo")
    with gr.Row():
        crop = gr.Checkbox(True, label=CROP)
        back = gr.Checkbox(False, label="Paste back into the whole photo")
        grid = gr.Checkbox(False, label="Show all intermediate results")
    run = gr.Button("Animate", variant="primary", elem_id="animate-run")
    driving, result, second, download, message = _outputs(gr, "animate")

    def work(*values: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008  (as Gradio requires)
        names = ("relative", "adapt_scale", "find_best_frame", "with_eyes", "paste_back", "crop", "grid")
        options = dict(zip(names, values[2:], strict=True))
        result = _reporting_errors(gr, lambda: workshop.animate(values[0], values[1], progress, **options))
        return values[1], str(result.video), _second(gr, result.grid), str(result.video), result.message

    inputs = [photo, video, relative, adapt, best, eyes, back, crop, grid]
    run.click(work, inputs, [driving, result, second, download, message], concurrency_id=MODEL)
    _connect(gr, workshop, examples, (photo, video, example, preview, seen, crop))


def _swap_tab(gr: Any, workshop: Workshop, examples: Path) -> None:
    photo, video, example, preview, seen = _inputs(gr)
    with gr.Row():
        crop = gr.Checkbox(True, label=CROP)
        grid = gr.Checkbox(False, label="Show all intermediate results")
    run = gr.Button("Swap", variant="primary", elem_id="swap-run")
    driving, result, second, download, message = _outputs(gr, "swap")

    def work(*values: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        result = _reporting_errors(
            gr, lambda: workshop.swap(values[0], values[1], progress, crop=values[2], grid=values[3])
        )
        return values[1], str(result.video), _second(gr, result.grid), str(result.video), result.message

    outputs = [driving, result, second, download, message]
    run.click(work, [photo, video, crop, grid], outputs, concurrency_id=MODEL)
    _connect(gr, workshop, examples, (photo, video, example, preview, seen, crop))


def _head_tab(gr: Any, workshop: Workshop, examples: Path) -> None:
    with gr.Row():
        photo = _photo(gr)
        overlay = gr.Image(label="Photo with the head over it", interactive=False, height=300)
        turntable = gr.Video(label="Turntable", interactive=False, height=300, loop=True)
    with gr.Row():
        example = gr.Button("Load an example", size="sm")
        crop = gr.Checkbox(True, label=CROP)
    run = gr.Button("Reconstruct", variant="primary", elem_id="head-run")
    message = gr.Markdown()
    download = gr.DownloadButton("Download mesh, texture and landmarks (.zip)")

    def work(path: str | None, find: bool) -> Any:
        result = _reporting_errors(gr, lambda: workshop.reconstruct(path, crop=find))
        return str(result.overlay), str(result.turntable), str(result.archive), result.message

    run.click(work, [photo, crop], [overlay, turntable, download, message], concurrency_id=MODEL)
    example.click(lambda: (str(make_example(examples).photo), False), None, [photo, crop])


def _inputs(gr: Any) -> tuple[Any, ...]:
    """Add photo, video, and a preview of what the model will see."""
    with gr.Row():
        photo = _photo(gr)
        video = gr.Video(label="Video", height=300, sources=["upload"])
        seen = gr.Gallery(label="What the model will see", columns=2, height=300, object_fit="contain")
    with gr.Row():
        example = gr.Button("Load an example", size="sm")
        preview = gr.Button("Preview crop and landmarks", size="sm")
    return photo, video, example, preview, seen


def _photo(gr: Any) -> Any:
    sources = ["upload", "clipboard"]
    photo = gr.Image(label="Photo", type="filepath", image_mode=None, height=300, sources=sources)
    # Keep the file as it is: Gradio would fail on a bad one, and convert others silently.
    photo.preprocess = lambda payload: None if payload is None else payload.path
    return photo


def _outputs(gr: Any, name: str) -> tuple[Any, ...]:
    """Add a message, the result beside the driving video, and a download."""
    message = gr.Markdown(elem_id=f"{name}-message")
    with gr.Row():
        driving = gr.Video(label="Driving video", interactive=False, height=340)
        result = gr.Video(
            label="Result", interactive=False, height=340, elem_id=f"{name}-result", autoplay=True
        )
    second = gr.Video(label="Intermediate results", interactive=False, visible=False)
    download = gr.DownloadButton("Download the result", elem_id=f"{name}-download")
    return driving, result, second, download, message


def _second(gr: Any, path: Path | None) -> Any:
    return gr.update(value=None if path is None else str(path), visible=path is not None)


def _connect(gr: Any, workshop: Workshop, examples: Path, parts: tuple[Any, ...]) -> None:
    """Connect the buttons for the example and for the preview."""
    photo, video, example, preview, seen, crop = parts

    def load() -> tuple[str, str, bool]:
        example_files = make_example(examples)
        return str(example_files.photo), str(example_files.video), False

    example.click(load, None, [photo, video, crop])
    preview.click(
        lambda image, video: _reporting_errors(gr, lambda: workshop.preview(image, video)),
        [photo, video],
        seen,
        concurrency_id=MODEL,
    )


def _reporting_errors(gr: Any, work: Callable[[], Value]) -> Value:
    """Run ``work``; an error that the user can fix becomes a message on the page."""
    try:
        return work()
    except UserError as error:
        where = Path(error.where).name  # the user knows the file's name, not where the page keeps it
        line = str(UserError(error.what, where, error.fix))
    except ValueError as error:
        line = str(error)
    raise gr.Error(line, duration=None, title="Error", print_exception=False)


def _theme() -> Any:
    """Use the system's fonts, so that the page needs no network."""
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    return gr.themes.Soft(font=fonts, font_mono=["ui-monospace", "monospace"])
