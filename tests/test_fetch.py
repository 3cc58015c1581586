"""Downloads from a server on loopback: whole, resumed, refused; nothing half in its place."""

import hashlib
import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_run import contents
from waiting import wait_until
from web import Web, serving

from ddpmseg.download import transfer
from ddpmseg.download.fetch import Source, checked_sha256, fetch, origin_path, read_origin
from ddpmseg.errors import CheckpointError, DataError, DownloadError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transfer, "CHUNK", 1000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web(CONTENT)) as server:
        yield server


def source(web: Web, sha256: str | None = None) -> Source:
    return Source(web.url, sha256, "backbone", "ddpmseg weights get x", CheckpointError)


def refusal(kind: type[Exception], web: Web, place: Path, sha256: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        fetch(source(web, sha256), place)
    assert not place.exists()
    return str(caught.value)


def visible(folder: Path) -> set[str]:
    return {name for name in contents(folder) if not name.startswith(".locks")}


def test_a_file_arrives_with_a_record_of_its_origin(web: Web, tmp_path: Path) -> None:
    place = tmp_path / "new" / "x.pt"
    fetch(source(web, SHA256.upper()), place)
    assert place.read_bytes() == CONTENT
    assert json.loads(origin_path(place).read_text()) == {
        "url": web.url,
        "sha256": SHA256,
        "size": len(CONTENT),
    }
    assert visible(place.parent) == {"x.pt", "x.pt.origin.json"}
    assert len(web.requests) == 1


def test_a_file_that_is_there_is_checked_and_not_fetched(web: Web, tmp_path: Path) -> None:
    place = tmp_path / "x.pt"
    fetch(source(web), place)
    fetch(source(web), place)
    assert len(web.requests) == 1
    place.write_bytes(b"changed")
    with pytest.raises(CheckpointError) as caught:
        fetch(source(web), place)
    message = str(caught.value)
    assert f"'{place}' has changed since it was fetched from {web.url}" in message
    assert SHA256 in message
    assert hashlib.sha256(b"changed").hexdigest() in message
    assert f"remove '{origin_path(place)}'" in message
    with pytest.raises(CheckpointError, match="not the file that was asked for"):
        fetch(source(web, SHA256), place)


def test_a_file_put_there_by_hand_is_taken_as_it_is(web: Web, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"mine")
    fetch(source(web), tmp_path / "x.pt")
    assert not web.requests
    assert (tmp_path / "x.pt").read_bytes() == b"mine"


@pytest.mark.parametrize("cuts", [[3000], [3000, 0, 2000], [1, 1, 1]])
def test_a_transfer_that_breaks_off_goes_on_from_there(
    web: Web, tmp_path: Path, cuts: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    web.cuts = list(cuts)
    fetch(source(web), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == CONTENT
    assert [request.get("Range") for request in web.requests] == [None] + [
        f"bytes={sum(cuts[: index + 1])}-" for index in range(len(cuts))
    ]
    assert all(request["If-Range"] == web.tag for request in web.requests[1:])
    assert caplog.text.count("the transfer broke off") == len(cuts)
    assert f"with {cuts[0]:,} of {len(CONTENT):,} bytes" in caplog.text


def test_the_fourth_break_ends_it_and_the_same_command_goes_on(web: Web, tmp_path: Path) -> None:
    web.cuts = [1000] * 4
    place = tmp_path / "x.pt"
    message = refusal(DownloadError, web, place)
    assert f"the transfer of {web.url} broke off 4 times" in message
    assert f"4,000 of {len(CONTENT):,} bytes are in '{place}.part'" in message
    assert "`ddpmseg weights get x` goes on from there" in message
    assert "`backbone.url` to a mirror" in message
    fetch(source(web), place)
    assert web.requests[-1]["Range"] == "bytes=4000-"
    assert place.read_bytes() == CONTENT
    assert visible(tmp_path) == {"x.pt", "x.pt.origin.json"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    cuts=st.lists(st.integers(0, 400), max_size=3),
    ranges=st.booleans(),
    etag=st.booleans(),
    length=st.booleans(),
)
def test_however_it_breaks_off_the_file_is_whole_or_not_there(
    web: Web, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges, etag, length
) -> None:
    """Without a length nobody can tell an early end: then only a digest can."""
    place = tmp_path_factory.mktemp("any") / "x.pt"
    web.content, web.cuts = CONTENT[:1000], list(cuts)
    web.ranges, web.etag, web.length = ranges, etag, length
    digest = hashlib.sha256(web.content).hexdigest()
    try:
        fetch(source(web, digest), place)
    except (CheckpointError, DownloadError):
        assert not length
        assert cuts
        assert not place.exists()
    else:
        assert place.read_bytes() == web.content


@pytest.mark.parametrize("ask_if", [True, False], ids=["If-Range", "ETag"])
def test_a_file_that_changed_meanwhile_is_not_spliced(
    web: Web, tmp_path: Path, ask_if: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether or not the server heeds If-Range."""
    web.cuts, web.ask_if = [1000] * 4, ask_if
    refusal(DownloadError, web, tmp_path / "x.pt")
    web.content = CONTENT[::-1]
    fetch(source(web), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == CONTENT[::-1]
    assert "beginning anew" in caplog.text


def test_without_a_tag_another_size_tells_of_a_change(web: Web, tmp_path: Path) -> None:
    web.cuts, web.etag = [1000] * 4, False
    refusal(DownloadError, web, tmp_path / "x.pt")
    web.content = b"other" + CONTENT
    fetch(source(web), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == web.content


def test_a_server_without_ranges_begins_anew(web: Web, tmp_path: Path) -> None:
    web.cuts, web.ranges = [3000, 2000], False
    fetch(source(web), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == CONTENT


def test_the_beginning_of_another_url_is_not_used(web: Web, tmp_path: Path) -> None:
    web.cuts = [1000] * 4
    refusal(DownloadError, web, tmp_path / "x.pt")
    web.url += "?mirror"
    fetch(source(web), tmp_path / "x.pt")
    assert "Range" not in web.requests[4]
    assert (tmp_path / "x.pt").read_bytes() == CONTENT


def test_another_file_than_expected_is_not_kept(web: Web, tmp_path: Path) -> None:
    message = refusal(CheckpointError, web, tmp_path / "x.pt", "0" * 64)
    assert f"its SHA-256 is {SHA256}, expected was {'0' * 64}, as the setting says" in message
    assert "set `backbone.sha256`" in message
    assert visible(tmp_path) == set()


def test_the_same_url_must_give_the_same_file_again(web: Web, tmp_path: Path) -> None:
    place = tmp_path / "x.pt"
    fetch(source(web), place)
    place.unlink()
    web.content = CONTENT[::-1]
    message = refusal(CheckpointError, web, place)
    assert SHA256 in message
    assert hashlib.sha256(web.content).hexdigest() in message
    assert f"remove '{origin_path(place)}'" in message
    web.url += "?other"
    fetch(source(web), place)
    origin = read_origin(place)
    assert origin is not None
    assert origin.url == web.url


class Refused(NamedTuple):
    settings: dict[str, object]
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Refused({"status": 404}, "there is no such file (status 404)"),
        Refused({"status": 403}, "the server refuses it (status 403)"),
        Refused({"status": 503}, "the server refuses it (status 503)"),
        Refused({"type": "text/html; charset=utf-8"}, "gave a web page, or nothing"),
        Refused({"content": b"\n <!DOCTYPE HTML><p>Log in"}, "gave a web page, or nothing"),
        Refused({"content": b"<?xml version='1.0'?><Error/>"}, "gave a web page, or nothing"),
        Refused({"content": b""}, "gave a web page, or nothing"),
    ],
    ids=lambda case: str(case.settings)[:30],
)
def test_what_is_no_file_is_refused(web: Web, tmp_path: Path, case: Refused) -> None:
    for name, value in case.settings.items():
        setattr(web, name, value)
    message = refusal(DownloadError, web, tmp_path / "x.pt")
    assert case.says in message
    assert web.url in message
    assert f"put it at '{tmp_path / 'x.pt'}'" in message
    assert visible(tmp_path) == set()


def test_offline_says_where_to_put_the_file_by_hand(web: Web, tmp_path: Path) -> None:
    web.url = "http://127.0.0.1:1/x.pt"
    message = refusal(DownloadError, web, tmp_path / "x.pt")
    assert "http://127.0.0.1:1/x.pt cannot be reached" in message
    assert f"put it at '{tmp_path / 'x.pt'}'" in message


@pytest.mark.parametrize("url", ["http://", "http://a b/c", "http://ü/\u0100 x", "https://:x/"])
def test_addresses_that_are_none(web: Web, tmp_path: Path, url: str) -> None:
    web.url = url
    assert "cannot be reached" in refusal(DownloadError, web, tmp_path / "x.pt")


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/x", "data:,x", "x.pt"])
def test_only_the_web_is_asked(web: Web, tmp_path: Path, url: str) -> None:
    web.url = url
    message = refusal(DownloadError, web, tmp_path / "x.pt")
    assert f"`backbone.url={url}` must begin with http:// or https://" in message


def test_silence_counts_as_broken_off(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.05)
    web.gate = threading.Event()
    assert "timed out" in refusal(DownloadError, web, tmp_path / "x.pt")
    web.gate.set()


def test_space_is_looked_for_before_the_transfer(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refusal(DownloadError, web, tmp_path / "x.pt")
    assert f"no space left for '{tmp_path / 'x.pt'}'" in message
    assert f"{len(CONTENT):,} bytes are needed, 5,000 are free" in message
    assert visible(tmp_path) == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_runs_full(web: Web, tmp_path: Path) -> None:
    (tmp_path / "x.pt.part").symlink_to("/dev/full")
    message = refusal(DownloadError, web, tmp_path / "x.pt")
    assert f"{len(CONTENT):,} bytes are needed" in message
    assert "are free. Make room" in message


def test_a_folder_that_cannot_be_written(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot be written .* Choose a folder"):
        fetch(source(web), tmp_path / "file" / "x.pt")


def test_of_two_at_once_one_fetches(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.gate = threading.Event()
    pair = [threading.Thread(target=fetch, args=(source(web), tmp_path / "x.pt")) for _ in range(2)]
    pair[0].start()
    assert web.waiting.wait(10)
    pair[1].start()
    wait_until(lambda: re.search("x.pt' is being fetched by .*: waiting", caplog.text))
    web.gate.set()
    for thread in pair:
        thread.join()
    assert len(web.requests) == 1
    assert (tmp_path / "x.pt").read_bytes() == CONTENT


def test_a_download_to_a_disk_without_locks(
    web: Web, tmp_path: Path, disk_without_locks: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        fetch(source(web), tmp_path / "x.pt")
    assert len(web.requests) == 1
    assert (tmp_path / "x.pt").read_bytes() == CONTENT
    assert disk_without_locks() == [str(tmp_path)]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(CONTENT)
    assert checked_sha256(tmp_path / "x.pt", None, CheckpointError) == SHA256
    for damage in ("{", "[]", '{"url": 1}'):
        origin_path(tmp_path / "x.pt").write_text(damage)
        with pytest.raises(DataError, match=r"x\.pt\.origin\.json', the record .* is damaged"):
            checked_sha256(tmp_path / "x.pt", None, CheckpointError)
