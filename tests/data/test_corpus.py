"""Corpora: downloads that fail, and data sets that are written completely or not at all."""

import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from data.corpus import (
    download,
    read_text,
    split_text,
    tiny_shakespeare,
    write_bins,
    write_chunks,
    write_text,
)
from data.meta import read_meta
from data.token_file import TokenFile
from data.tokenizers import ByteTokenizer, CharTokenizer

BODY = b"To be, or not to be\n" * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()
OK, ERROR, MISSING, CUT = 200, 500, 404, -1


class Server(HTTPServer):
    """Answers each request with the next word of its script, and the last word from then on."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[int] = []
        self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_port}/text"


class Handler(BaseHTTPRequestHandler):
    """Sends the complete body, half of it, or an error."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        word = self.server.script[min(self.server.requests, len(self.server.script) - 1)]
        self.server.requests += 1
        body = BODY if word in (OK, CUT) else b"sorry"
        self.send_response(OK if word == CUT else word)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if word == CUT else body)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_download_from_a_file_url(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_bytes(BODY)

    download(source.as_uri(), tmp_path / "text", SHA256)

    assert (tmp_path / "text").read_bytes() == BODY
    assert sorted(os.listdir(tmp_path)) == ["source.txt", "text"]


@pytest.mark.parametrize(
    ("script", "requests"), [([OK], 1), ([ERROR, ERROR, OK], 3), ([CUT, OK], 2), ([429, CUT, OK], 3)]
)
def test_download_tries_again(server: Server, tmp_path: Path, script: list[int], requests: int) -> None:
    server.script = script

    download(server.url, tmp_path / "text", SHA256, retries=3, wait=0.001)

    assert (tmp_path / "text").read_bytes() == BODY
    assert server.requests == requests
    assert os.listdir(tmp_path) == ["text"]


@pytest.mark.parametrize(
    ("script", "sha256", "requests", "message"),
    [
        ([ERROR], None, 3, "HTTP Error 500"),
        ([CUT], None, 3, "ended after 10,000 of 20,000 bytes"),
        ([MISSING], None, 1, "HTTP Error 404"),
        ([OK], "0" * 64, 1, f"has sha256 {SHA256}, wanted 000"),
    ],
)
def test_a_failed_download_keeps_the_old_file(
    server: Server, tmp_path: Path, script: list[int], sha256: str | None, requests: int, message: str
) -> None:
    server.script = script
    (tmp_path / "text").write_text("before")

    with pytest.raises(DataError, match=message):
        download(server.url, tmp_path / "text", sha256, retries=3, wait=0.001)

    assert server.requests == requests
    assert (tmp_path / "text").read_text() == "before"
    assert os.listdir(tmp_path) == ["text"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/text", "no url", "file:///no/such/file"])
def test_an_address_without_an_answer_is_one_clear_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="cannot download"):
        download(url, tmp_path / "text", retries=2, wait=0.001)

    assert os.listdir(tmp_path) == []


def test_line_ends_become_newlines(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("é\r\nb\rc\n".encode())

    assert read_text(tmp_path / "text") == "é\nb\nc\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_read_and_dropped(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "text").write_bytes("é\r\nb\n☃".encode(encoding))

    assert read_text(tmp_path / "text") == "é\nb\n☃"


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\x00\x00\xfe\xff", "utf-32-be")])
def test_byte_order_marks_of_big_endian_text(tmp_path: Path, mark: bytes, encoding: str) -> None:
    (tmp_path / "text").write_bytes(mark + "ab\r\n".encode(encoding))

    assert read_text(tmp_path / "text") == "ab\n"


def test_byte_order_marks_inside_of_a_text_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `cat` joins files of a Windows editor."""
    mark = b"\xef\xbb\xbf"
    (tmp_path / "text").write_bytes(mark + b"one\n" + mark + b"two" + mark + b"three")

    assert read_text(tmp_path / "text") == "one\ntwothree"
    assert caplog.messages == [f"{tmp_path / 'text'}: 2 byte-order marks (U+FEFF) inside of the text are dropped"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("plain words".encode("utf-16-le"), "is not text, or UTF-16 without a byte-order mark: convert it to UTF-8"),
        (b"\xff\xfea\x00b", r"is not UTF-16 text \(at byte 4\): convert it to UTF-8 first"),
        ("plain".encode("cp1252") + b"\x93", r"is not UTF-8 text \(at byte 5\): convert it to UTF-8 first"),
    ],
)
def test_text_in_another_encoding_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "text").write_bytes(content)

    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "text")


def test_unreadable_text_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"caf\xe9 ol\xe9")

    with pytest.raises(DataError, match=r"latin1 is not UTF-8 text \(at byte 3\)"):
        read_text(tmp_path / "latin1")
    with pytest.raises(DataError, match=r"cannot read .*absent: No such file"):
        read_text(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot read"):
        read_text(tmp_path)


def test_the_split_is_nanogpts() -> None:
    for n in range(300):
        text = "".join(map(chr, range(n)))
        assert split_text(text) == (text[: int(n * 0.9)], text[int(n * 0.9) :])


def test_another_split_can_be_chosen() -> None:
    assert split_text("abcdefgh", val_fraction=0.25) == ("abcdef", "gh")


def test_a_given_or_kept_text_is_not_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.txt").write_text("kept")
    (tmp_path / "mine").write_text("given")

    assert tiny_shakespeare(tmp_path) == "kept"
    assert tiny_shakespeare(tmp_path, tmp_path / "mine") == "given"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("is not the well-known tiny Shakespeare") == 2


def test_bins_hold_uint16_and_meta_the_vocabulary(tmp_path: Path) -> None:
    write_bins(tmp_path / "new" / "set", [0, 1, 65_535], np.array([1, 0]), CharTokenizer.from_text("ab"))

    folder = tmp_path / "new" / "set"
    assert np.fromfile(folder / "train.bin", dtype=np.uint16).tolist() == [0, 1, 65_535]
    assert np.fromfile(folder / "val.bin", dtype=np.uint16).tolist() == [1, 0]
    assert pickle.loads((folder / "meta.pkl").read_bytes()) == CharTokenizer.from_text("ab").meta()
    assert sorted(os.listdir(folder)) == ["meta.pkl", "train.bin", "val.bin"]


def test_chunks_are_joined_and_counted(tmp_path: Path) -> None:
    counts = write_chunks(tmp_path, iter([[1, 2], [], [3]]), iter([[4], [5]]), ByteTokenizer())

    assert counts == (3, 2)
    assert np.fromfile(tmp_path / "train.bin", dtype=np.uint16).tolist() == [1, 2, 3]
    assert np.fromfile(tmp_path / "val.bin", dtype=np.uint16).tolist() == [4, 5]


class Unnamed(ByteTokenizer):
    """A tokenizer that keeps no meta.pkl, as GPT-2's."""

    def meta(self) -> None:  # type: ignore[override]
        """Return None."""


def test_a_stale_vocabulary_goes_when_the_new_tokens_need_none(tmp_path: Path) -> None:
    write_bins(tmp_path, [1, 2], [3, 4], ByteTokenizer())
    write_bins(tmp_path, [5, 6], [7, 8], Unnamed())

    assert sorted(os.listdir(tmp_path)) == ["train.bin", "val.bin"]


def interrupted() -> Iterator[list[int]]:
    yield [9, 9, 9]
    raise KeyboardInterrupt


def test_a_vocabulary_above_65536_is_written_in_four_bytes(tmp_path: Path) -> None:
    characters = CharTokenizer.from_text("".join(map(chr, range(0x10000, 0x10000 + 65_537))))

    write_bins(tmp_path, [0, 65_536, 9], [65_536, 1], characters)

    assert np.fromfile(tmp_path / "train.bin", dtype=np.uint32).tolist() == [0, 65_536, 9]
    assert np.fromfile(tmp_path / "val.bin", dtype=np.uint32).tolist() == [65_536, 1]
    meta = read_meta(tmp_path / "meta.pkl")
    assert meta == {**characters.meta(), "dtype": "uint32"}
    assert TokenFile(tmp_path / "train.bin").read([1], [1]).tolist() == [65_536]


def test_a_vocabulary_of_65536_is_written_as_always(tmp_path: Path) -> None:
    characters = CharTokenizer.from_text("".join(map(chr, range(0x10000, 0x10000 + 65_536))))

    write_bins(tmp_path, [0, 65_535], [65_535, 1], characters)

    assert (tmp_path / "train.bin").read_bytes() == b"\0\0\xff\xff"
    assert (tmp_path / "meta.pkl").read_bytes() == pickle.dumps(characters.meta(), protocol=4)


@pytest.mark.parametrize(
    ("train", "val", "error", "message"),
    [
        ([[1, 2]], [[3, 65_536]], DataError, "token id 65536 is not between 0 and 65535"),
        ([[1, -1]], [[3, 4]], DataError, "token id -1 "),
        ([[1, 2]], [[3]], DataError, r"too short: 1 tokens for val\.bin, wanted 2"),
        ([], [[3, 4]], DataError, r"too short: 0 tokens for train\.bin"),
        ([[1, 2]], interrupted(), KeyboardInterrupt, "^$"),
    ],
)
def test_a_failure_keeps_the_old_data_set(
    tmp_path: Path, train: list[list[int]], val: list[list[int]], error: type[BaseException], message: str
) -> None:
    write_bins(tmp_path, [1, 2], [3, 4], ByteTokenizer())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(error, match=message):
        write_chunks(tmp_path, train, val, CharTokenizer.from_text("ab"))

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too short"):
        write_bins(tmp_path / "set", [1], [2], ByteTokenizer())

    assert os.listdir(tmp_path) == []


def test_a_failure_between_the_renames_never_mixes_two_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bins(tmp_path, [1, 2], [3, 4], ByteTokenizer())
    rename = os.replace

    def fail_at_train(source: Path, target: Path) -> None:
        if target == tmp_path / "train.bin":
            raise OSError("no more")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fail_at_train)
    with pytest.raises(DataError, match="no more"):
        write_bins(tmp_path, [0, 1], [1, 0], CharTokenizer.from_text("ab"))

    assert not (tmp_path / "val.bin").exists()  # so that nothing can train on it


@pytest.mark.parametrize("name", ["prepare.part", "prepare.part.part"])
def test_the_files_of_a_killed_run_are_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "meta.pkl").write_text("half")

    write_bins(tmp_path, [1, 2], [3, 4], Unnamed())

    assert sorted(os.listdir(tmp_path)) == ["train.bin", "val.bin"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match=r"cannot write the data set to .*file/set: Not a directory; make room or"):
        write_bins(tmp_path / "file" / "set", [1, 2], [3, 4], ByteTokenizer())


def test_text_is_split_by_characters_before_it_is_encoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "é" * 90 + "abcdefghij"

    write_text(tmp_path, text, ByteTokenizer())

    assert np.fromfile(tmp_path / "train.bin", dtype=np.uint16).tolist() == list("é".encode()) * 90
    assert bytes(np.fromfile(tmp_path / "val.bin", dtype=np.uint16).tolist()) == b"abcdefghij"
    assert capsys.readouterr().out == "train has 180 tokens\nval has 10 tokens\n"


def test_a_pipe_in_place_of_a_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"^cannot read .*pipe: it is a named pipe$"):
        read_text(tmp_path / "pipe")
