"""meta.pkl: the written file is nanoGPT's, and reading a hostile file is safe."""

import os
import pickle
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import datetime
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.errors import DataError
from data.meta import read_meta, write_meta

META = {"vocab_size": 2, "itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}}


def pickled(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def test_written_meta_is_a_plain_pickled_dict(tmp_path: Path) -> None:
    """nanoGPT opens the file with pickle.load and nothing else."""
    write_meta(tmp_path / "meta.pkl", OrderedDict(META))

    loaded = pickle.loads((tmp_path / "meta.pkl").read_bytes())
    assert loaded == META and type(loaded) is dict
    assert read_meta(tmp_path / "meta.pkl") == META
    assert os.listdir(tmp_path) == ["meta.pkl"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    assert read_meta(pickled(tmp_path / "meta.pkl", META, protocol)) == META


def test_further_keys_survive(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.pkl", META | {"tokenizer": "byte"})

    assert read_meta(tmp_path / "meta.pkl")["tokenizer"] == "byte"


def test_relatives_of_dict_become_dict(tmp_path: Path) -> None:
    meta = read_meta(pickled(tmp_path / "meta.pkl", OrderedDict(META, counts=Counter("aab"))))

    assert meta == META | {"counts": {"a": 2, "b": 1}}
    assert type(meta) is dict and type(meta["counts"]) is dict


@pytest.mark.parametrize(
    "value",
    [np.int64(65), np.uint8(65), np.dtype(">i4").type(65), np.float32(0.5), np.bool_(True), np.str_("é")],
)
def test_numpy_scalars_become_plain_values(tmp_path: Path, value: Any) -> None:
    meta = read_meta(pickled(tmp_path / "meta.pkl", META | {"value": value}))

    assert meta["value"] == value.item()
    assert type(meta["value"]) is type(value.item())


@pytest.mark.parametrize("dtype", [np.uint32, np.dtype("uint32"), "uint32", np.dtype("<u4")])
def test_a_type_of_ids_is_plain_text(tmp_path: Path, dtype: Any) -> None:
    """As a user's prepare script may write it."""
    found = read_meta(pickled(tmp_path / "meta.pkl", META | {"dtype": dtype}))["dtype"]

    assert type(found) is str and np.dtype(found) == np.uint32


def test_a_vocab_size_of_numpy_is_a_number_and_a_set_is_refused(tmp_path: Path) -> None:
    assert read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": np.int32(7)})) == {"vocab_size": 7}
    with pytest.raises(DataError, match=r"vocab_size is \{'a'\}, wanted a whole number"):
        read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": {"a"}}))


CHARS = ["a", "b"]
PLAIN = [  # what people put into their files, and what is read
    (defaultdict(int, a=1), {"a": 1}),
    (defaultdict(list), {}),
    (deque(CHARS, maxlen=3), CHARS),
    ({"a"}, {"a"}),
    (frozenset("a"), {"a"}),
    (bytearray(b"ab\xff"), b"ab\xff"),
    ({b"\xff": 0, b"": 1}, {b"\xff": 0, b"": 1}),
    (np.array(CHARS), CHARS),
    (np.array(CHARS, dtype=object), CHARS),
    (np.array(["a", 1, None], dtype=object), ["a", 1, None]),
    (np.array([[1, 2], [3, 4]], dtype=np.uint16).T, [[1, 3], [2, 4]]),
    (np.array([b"a", b"bc"]), [b"a", b"bc"]),
    (np.array([], dtype=np.float32), []),
    (PurePosixPath("/a/b"), "/a/b"),
    (PureWindowsPath("C:\\a\\b"), "C:\\a\\b"),
    (Path("a") / "b", "a/b"),
    (datetime(2024, 1, 2), None),
    ({"nested": (np.int64(3), [np.array([1])])}, {"nested": (3, [[1]])}),
]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(("value", "plain"), PLAIN)
def test_containers_and_arrays_become_plain_data(tmp_path: Path, value: Any, plain: Any, protocol: int) -> None:
    found = read_meta(pickled(tmp_path / "meta.pkl", META | {"value": value}, protocol))["value"]

    assert found == plain and type(found) is type(plain)


class Tok:
    """A stand-in for a class of another package."""

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("the code of a package has run")


def test_objects_of_tokenizer_packages_become_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tok, "__module__", "sentencepiece")
    monkeypatch.setitem(sys.modules, "sentencepiece", SimpleNamespace(Tok=Tok))
    tokenizer = Tok()
    tokenizer.proto = b"\x00"  # type: ignore[attr-defined]

    meta = read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": 3, "sp": tokenizer, "kind": Tok}))

    assert meta["sp"] == {"class": "sentencepiece.Tok", "state": {"proto": b"\x00"}}
    assert meta["kind"] == "sentencepiece.Tok"


def test_a_missing_vocab_size_is_found_or_counted(tmp_path: Path) -> None:
    for meta, size in [
        ({"stoi": {"a": 0, "b": 4}}, 5),
        ({"chars": np.array(CHARS)}, 2),
        ({"n_vocab": np.int64(7), "chars": "ab"}, 7),
        ({"tokenizer": "tiktoken", "tiktoken_encoding": "cl100k_base"}, 100277),
    ]:
        assert read_meta(pickled(tmp_path / "meta.pkl", meta))["vocab_size"] == size
    with pytest.raises(DataError, match="no vocab_size, wanted a whole number"):
        read_meta(pickled(tmp_path / "meta.pkl", {"seed": 1}))


def test_a_model_file_next_to_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "tok.model").touch()
    for name in ("tok.model", "/another/machine/tok.model", "C:\\data\\tok.model"):
        meta = read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": 3, "model_file": name}))
        assert meta["model_file"] == str((tmp_path / "tok.model").resolve())
    assert read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": 3, "sp": "x.model"}))["sp"] == "x.model"


def test_one_list_at_very_many_places_is_read_at_once(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(100):
        value = [value, value]

    assert len(read_meta(pickled(tmp_path / "meta.pkl", META | {"value": value}))["value"]) == 2
    with pytest.raises(DataError, match=r"vocab_size is \[\["):
        read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": value}))


def test_a_list_within_itself_is_one_clear_error(tmp_path: Path) -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(DataError, match="damaged or not plain data"):
        read_meta(pickled(tmp_path / "meta.pkl", META | {"value": value}))


def test_a_users_own_class_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"asks for fractions\.Fraction.*save a dict of vocab_size, stoi and itos"):
        read_meta(pickled(tmp_path / "meta.pkl", META | {"x": Fraction(1, 2)}))


def test_numpy_objects_are_refused(tmp_path: Path) -> None:
    """With an object dtype numpy's own unpickling would return any object."""
    path = pickled(tmp_path / "meta.pkl", META | {"value": np.dtype(object)})

    with pytest.raises(DataError, match="numpy value of type 'O8'"):
        read_meta(path)


class Hostile:
    """Unpickles by calling `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    path = pickled(tmp_path / "meta.pkl", META | {"x": Hostile(os.mkdir, str(tmp_path / "harm"))})

    with pytest.raises(DataError, match=r"asks for posix\.mkdir|asks for nt\.mkdir"):
        read_meta(path)
    assert not (tmp_path / "harm").exists()


def test_numpy_types_are_not_taken_at_their_word(tmp_path: Path) -> None:
    """The pickle chooses the state of a dtype."""

    class Type:
        def __reduce__(self) -> Any:
            return np.dtype, ("i8", False, True), (3, "O,", None, None, None, -1, -1, 0)

    with pytest.raises(DataError, match="byte order 'O,'"):
        read_meta(pickled(tmp_path / "meta.pkl", META | {"value": Type()}))


@pytest.mark.parametrize("function", [eval, getattr, np.load, Fraction, Counter.update, bytes.fromhex])
def test_other_globals_are_refused(tmp_path: Path, function: Any) -> None:
    with pytest.raises(DataError, match="asks for"):
        read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": 2, "x": function}))


@pytest.mark.parametrize("name", ["numpy\ndtype", "collections\nCounter", "numpy.core.multiarray\nscalar"])
def test_a_pickle_cannot_change_what_the_next_one_gets(tmp_path: Path, name: str) -> None:
    """The opcodes name an allowed global and set the attribute `value` of it."""
    opcodes = b"\x80\x04c" + name.encode() + b"\nN}X\x05\x00\x00\x00valueK\x01s\x86b."
    (tmp_path / "bad.pkl").write_bytes(opcodes)

    with pytest.raises(DataError):
        read_meta(tmp_path / "bad.pkl")
    assert not hasattr(Counter, "value")
    assert read_meta(pickled(tmp_path / "meta.pkl", {"vocab_size": np.int64(3)})) == {"vocab_size": 3}


@pytest.mark.parametrize("length", [0, 1, 20, 40])
def test_a_cut_file_is_one_clear_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(META)[:length])

    with pytest.raises(DataError, match="is damaged"):
        read_meta(path)


@pytest.mark.parametrize("value", [[1, 2], "text", None])
def test_something_else_than_a_dict_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=f"holds a {type(value).__name__}, wanted a dict"):
        read_meta(pickled(tmp_path / "meta.pkl", value))


@pytest.mark.parametrize("size", [0, -1, True, 65.0, "65", None])
def test_a_wrong_vocab_size_is_refused(tmp_path: Path, size: Any) -> None:
    with pytest.raises(DataError, match=f"vocab_size is {size!r}"):
        read_meta(pickled(tmp_path / "meta.pkl", META | {"vocab_size": size}))


def test_errors_say_which_command_mends_it(tmp_path: Path) -> None:
    path = pickled(tmp_path / "meta.pkl", {"stoi": {}})

    with pytest.raises(DataError, match=f"no vocab_size.*data/text/prepare.py FILE --name {tmp_path.name}"):
        read_meta(path)
    (tmp_path / "prepare.py").touch()
    with pytest.raises(DataError, match=f"run `python {tmp_path / 'prepare.py'}` again"):
        read_meta(path)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*meta\.pkl \(No such file"):
        read_meta(tmp_path / "meta.pkl")


def test_writing_to_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        write_meta(tmp_path / "absent" / "meta.pkl", META)


def test_a_queues_folder_names_its_own_script(tmp_path: Path) -> None:
    (tmp_path / "prepare_streaming.py").touch()

    with pytest.raises(DataError, match=f"run `python {tmp_path / 'prepare_streaming.py'}` again"):
        read_meta(tmp_path / "meta.pkl")


def test_a_pickle_that_calls_a_class_wrongly_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(b"cnumpy\nndarray\n(tR.")
    with pytest.raises(DataError, match=r"meta\.pkl is damaged or not plain data \(TypeError\): make it again"):
        read_meta(tmp_path / "meta.pkl")
