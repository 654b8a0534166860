"""Downloads from a host that misbehaves: every error has one of four codes, no partial file stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from safa.config.preprocess import MetadataSource, UrlDownload, YtDlpDownload
from safa.data.download.base import Downloader
from safa.data.download.retry import TRANSIT, downloaded, make_downloader
from safa.data.download.ytdlp import YtDlpDownloader, _Bounds, _options, clip_error, find_deno
from safa.data.download.ytdlp_network import checked
from safa.data.video import write_video
from safa.errors import ClipError, FailureCode, UserError
from tests.bad_host import Behaviour, serving

IDS = ("abc", "-dash_id-0")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(30)]
    for name in IDS:
        write_video(folder / f"{name}.mp4", frames, 25.0)
    return folder


@pytest.fixture
def host(videos: Path) -> Iterator[tuple[Behaviour, str]]:
    behaviour = Behaviour(videos)
    with serving(behaviour) as address:
        yield behaviour, address


def _web(address: str) -> UrlDownload:
    return UrlDownload(kind="url", url=address + "/{video_id}.mp4", attempts=3, backoff_s=1.0, timeout_s=0.5)


def _ytdlp(address: str) -> YtDlpDownload:
    # The same library and options as for YouTube; its generic extractor reads the loopback host.
    return YtDlpDownload(
        kind="yt_dlp",
        page=address + "/{video_id}.mp4",
        attempts=3,
        backoff_s=1.0,
        timeout_s=0.5,
        format="best",
    )


KINDS: dict[str, Callable[[str], UrlDownload | YtDlpDownload]] = {"web": _web, "yt-dlp": _ytdlp}
both = pytest.mark.parametrize("kind", KINDS)


def _source(tmp_path: Path, policy: UrlDownload | YtDlpDownload) -> MetadataSource:
    return MetadataSource(kind="metadata", csv=tmp_path / "list.csv", videos=tmp_path / "v", download=policy)


def _left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "v").rglob("*") if path.is_file())


@both
@pytest.mark.parametrize("name", IDS)
def test_a_download_is_whole_and_goes_afterwards(
    kind: str, name: str, host: tuple[Behaviour, str], videos: Path, tmp_path: Path
) -> None:
    behaviour, address = host
    source = _source(tmp_path, KINDS[kind](address))
    assert source.download is not None
    with downloaded(name, source, make_downloader(source.download)) as path:
        assert path.read_bytes() == (videos / f"{name}.mp4").read_bytes()
        assert path.parent.name == TRANSIT
    assert _left(tmp_path) == []
    assert behaviour.count[name] >= 1


def test_what_is_kept_is_not_downloaded_again(host: tuple[Behaviour, str], tmp_path: Path) -> None:
    behaviour, address = host
    source = _source(tmp_path, _web(address).model_copy(update={"keep": True}))
    assert source.download is not None
    for _ in range(2):
        with downloaded("abc", source, make_downloader(source.download)) as path:
            assert path == tmp_path / "v" / "abc.mp4"
    assert _left(tmp_path) == ["abc.mp4"]
    assert behaviour.count["abc"] == 1


def test_a_finished_download_of_a_killed_run_is_used(
    host: tuple[Behaviour, str], videos: Path, tmp_path: Path
) -> None:
    behaviour, address = host
    source = _source(tmp_path, _web(address))
    waiting = tmp_path / "v" / TRANSIT / "abc.mp4"
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes((videos / "abc.mp4").read_bytes())
    with downloaded("abc", source, _Never()):
        pass
    assert (behaviour.count["abc"], _left(tmp_path)) == (0, [])


class _Never:
    def get(self, video_id: str, path: Path) -> None:
        raise AssertionError("nothing was to be downloaded")


# way, code, requests that the web downloader makes
ERRORS = {
    "404": (FailureCode.UNAVAILABLE, 1),
    "410": (FailureCode.UNAVAILABLE, 1),
    "403": (FailureCode.UNAVAILABLE, 1),
    "bot": (FailureCode.BLOCKED, 1),
    "page": (FailureCode.UNAVAILABLE, 1),
    "429": (FailureCode.RATE_LIMITED, 3),
    "500": (FailureCode.TIMEOUT, 3),
    "truncated": (FailureCode.TIMEOUT, 3),
    "stalled": (FailureCode.TIMEOUT, 3),
}


@pytest.mark.parametrize("way", ERRORS)
def test_errors_of_the_web(way: str, host: tuple[Behaviour, str], tmp_path: Path) -> None:
    behaviour, address = host
    behaviour.ways["abc"] = way
    source = _source(tmp_path, _web(address))
    pauses: list[float] = []
    code, requests = ERRORS[way]
    context = downloaded("abc", source, make_downloader(_web(address)), pauses.append)
    with pytest.raises(ClipError) as caught, context:
        raise AssertionError("there is nothing to work with")
    assert caught.value.code is code
    assert caught.value.detail
    assert behaviour.count["abc"] == requests
    assert len(pauses) == requests - 1
    # The second pause is at least 2 s, the first at most 1.25 s.
    assert all(later > 1.5 * sooner for sooner, later in pairwise(pauses))
    assert _left(tmp_path) == []


@pytest.mark.parametrize("way", ["404", "403", "429", "500", "truncated", "stalled"])
def test_errors_of_the_web_through_ytdlp(way: str, host: tuple[Behaviour, str], tmp_path: Path) -> None:
    behaviour, address = host
    behaviour.ways["abc"] = way
    source = _source(tmp_path, _ytdlp(address))
    context = downloaded("abc", source, make_downloader(_ytdlp(address)), lambda _: None)
    with pytest.raises(ClipError) as caught, context:
        raise AssertionError("there is nothing to work with")
    assert caught.value.code is ERRORS[way][0]
    assert _left(tmp_path) == []


@both
def test_a_limit_that_passes_is_waited_for(kind: str, host: tuple[Behaviour, str], tmp_path: Path) -> None:
    behaviour, address = host
    behaviour.flaky["abc"] = 2
    source = _source(tmp_path, KINDS[kind](address))
    assert source.download is not None
    with downloaded("abc", source, make_downloader(source.download), lambda _: None) as path:
        assert path.stat().st_size > 0


def test_words_of_youtube() -> None:
    """Messages of yt-dlp as users quote them."""
    known = {
        "ERROR: [youtube] x: Video unavailable. It has been removed by the uploader": FailureCode.UNAVAILABLE,
        "[youtube] x: Private video. Sign in if you've been granted access": FailureCode.UNAVAILABLE,
        "[youtube] x: This video is no longer available because the YouTube account associated with it "
        "has been terminated.": FailureCode.UNAVAILABLE,
        "[youtube] x: Sign in to confirm you\u2019re not a bot. Use --cookies": FailureCode.BLOCKED,
        "[youtube] x: Sign in to confirm your age": FailureCode.UNAVAILABLE,
        "[youtube] x: The uploader has not made this video available": FailureCode.UNAVAILABLE,
        "unable to download video data: HTTP Error 429: Too Many Requests": FailureCode.RATE_LIMITED,
        "[youtube] x: Unable to download API page: The read operation timed out": FailureCode.TIMEOUT,
        "something that nobody has seen yet": FailureCode.TIMEOUT,
    }
    for message, code in known.items():
        assert clip_error(message).code is code, message


def test_videos_that_ask_for_javascript_are_not_given_up() -> None:
    """YouTube shows pictures alone to who does not run its scripts: the video is there."""
    for words in (
        "ERROR: [youtube] abc: Requested format is not available. Use --list-formats for a list",
        "Only images are available for download. use --list-formats to see them",
        "No supported JavaScript runtime could be found",
    ):
        assert clip_error(words).code == FailureCode.TIMEOUT
    assert clip_error("This video is not available").code == FailureCode.UNAVAILABLE


def test_without_a_program_for_javascript_the_run_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(str(find_deno())).is_file()
    monkeypatch.setattr("safa.data.download.ytdlp.find_deno", lambda: None)
    with pytest.raises(UserError, match=r"there is no deno, which runs .* pip install -e '\.\[download\]'"):
        YtDlpDownloader(YtDlpDownload(kind="yt_dlp"))


def test_settings_reach_ytdlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yt_dlp

    seen: dict[str, object] = {}
    slept: list[float] = []

    class Recorder:
        def __init__(self, options: dict[str, object]) -> None:
            seen.update(options)

        def __enter__(self) -> Recorder:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

        def download(self, pages: list[str]) -> None:
            seen["pages"] = pages
            (tmp_path / "x.mp4").write_bytes(b"1")

    monkeypatch.setattr(yt_dlp, "YoutubeDL", Recorder)
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n")
    config = YtDlpDownload(
        kind="yt_dlp",
        cookies=cookies,
        proxy="socks5://h:1",
        rate_limit_mb=2.0,
        sleep_s=(3.0, 4.0),
        timeout_s=7.0,
    )
    YtDlpDownloader(config, slept.append).get("-dQw4w9WgXc", tmp_path / "x.mp4")
    assert seen["pages"] == ["https://www.youtube.com/watch?v=-dQw4w9WgXc"]
    assert (seen["cookiefile"], seen["proxy"]) == (str(cookies), "socks5://h:1")
    assert (seen["ratelimit"], seen["socket_timeout"]) == (2 * 2**20, 7.0)
    assert seen["js_runtimes"] == {"deno": {"path": find_deno()}}
    assert 3.0 <= slept[0] <= 4.0


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"])
def test_yt_dlp_follows_no_redirect_into_this_network(
    name: str, host: tuple[Behaviour, str], tmp_path: Path
) -> None:
    """The other host has the video, and is asked for nothing; a redirect to the same host is followed."""
    behaviour, address = host
    inside = Behaviour(behaviour.folder)
    with serving(inside) as other:
        behaviour.redirects["elsewhere"] = f"http://{name}:{other.rpartition(':')[2]}/abc.mp4"
        behaviour.redirects["here"] = f"{address}/abc.mp4"
        downloader = YtDlpDownloader(_ytdlp(address), lambda _: None)
        with pytest.raises(ClipError, match="which is not public") as error:
            downloader.get("elsewhere", tmp_path / "a.mp4")
        assert error.value.code is FailureCode.UNAVAILABLE
        assert not inside.count
        downloader.get("here", tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").read_bytes() == (behaviour.folder / "abc.mp4").read_bytes()


def test_ffmpeg_downloads_nothing_for_yt_dlp(host: tuple[Behaviour, str], tmp_path: Path) -> None:
    """It would follow any list of files; a playlist is read by yt-dlp itself, or not at all."""
    import yt_dlp

    _, address = host
    library = checked(yt_dlp, address)(_options(_ytdlp(address), tmp_path / "a.mp4"))
    info = {"id": "a", "ext": "mp4", "url": f"{address}/abc.mp4"}
    with library, pytest.raises(ClipError, match="by rtmp, which is not read"):
        library.dl(str(tmp_path / "a.mp4"), info | {"protocol": "rtmp"})
    assert library.params["ffmpeg_location"]
    lists = [tmp_path / "pictures.mp4", tmp_path / "sound.mp4"]
    for path in lists:
        path.write_text(f"#EXTM3U\n#EXTINF:1,\n{host[0].folder / 'abc.mp4'}\n#EXT-X-ENDLIST\n")
    joiner = yt_dlp.postprocessor.FFmpegMergerPP(library)
    formats = [
        {"protocol": "https", "vcodec": "h264", "acodec": "none"},
        {"protocol": "https", "vcodec": "none", "acodec": "aac"},
    ]
    files = {"__files_to_merge": list(map(str, lists)), "requested_formats": formats}
    with pytest.raises(yt_dlp.utils.PostProcessingError):
        joiner.run({"filepath": str(tmp_path / "a.mp4")} | files)


def test_missing_cookies_are_reported_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such cookies file"):
        make_downloader(YtDlpDownload(kind="yt_dlp", cookies=tmp_path / "none.txt"))


def test_objects_of_a_store(videos: Path, tmp_path: Path) -> None:
    """file:// stands for s3:// and gs://: pyarrow opens all three the same way."""
    config = UrlDownload(kind="url", url=videos.as_uri() + "/{video_id}.mp4", attempts=1)
    downloader: Downloader = make_downloader(config)
    with downloaded("abc", _source(tmp_path, config), downloader) as path:
        assert path.read_bytes() == (videos / "abc.mp4").read_bytes()
    with pytest.raises(ClipError, match="no such object") as caught:
        downloader.get("gone", tmp_path / "part")
    assert caught.value.code is FailureCode.UNAVAILABLE


def test_what_comes_must_be_a_video(host: tuple[Behaviour, str], videos: Path, tmp_path: Path) -> None:
    _, address = host
    (videos / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    context = downloaded("noise", _source(tmp_path, _web(address)), make_downloader(_web(address)))
    with pytest.raises(ClipError, match="not a video") as caught, context:
        raise AssertionError("noise was taken for a video")
    assert caught.value.code is FailureCode.DECODE
    assert _left(tmp_path) == []


@both
def test_a_download_that_is_too_large_is_refused_once(
    kind: str, host: tuple[Behaviour, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = host
    monkeypatch.setenv("SAFA_LIMITS", "download_bytes=1000")
    source = _source(tmp_path, KINDS[kind](address))
    assert source.download is not None
    refused = pytest.raises(ClipError, match=r"download_bytes=NUMBER|no file")
    with refused as error, downloaded("abc", source, make_downloader(source.download), lambda _: None):
        pass
    assert error.value.code == FailureCode.UNAVAILABLE
    assert _left(tmp_path) == []


def test_bounds_of_yt_dlp_count_what_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFA_LIMITS", "download_bytes=1000,download_pace=0")
    with pytest.raises(ClipError, match="download_bytes=NUMBER"):
        _Bounds("a.mp4")({"status": "downloading", "downloaded_bytes": 1001})
    with pytest.raises(ClipError, match="download_pace=NUMBER") as error:
        _Bounds("a.mp4")({"status": "downloading", "downloaded_bytes": 10})
    assert error.value.code == FailureCode.TIMEOUT
