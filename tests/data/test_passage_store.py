"""Passages on disk are those of the files; what is cut, edited or double is told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ragjax import manifests
from ragjax.data import passage_store, passage_writer
from ragjax.data.passage_store import PassageStore, build_store, source_of, write_store
from ragjax.data.readers import read_passages
from ragjax.data.report import digest_of
from ragjax.errors import UserError
from ragjax.text import counted
from ragjax.types import Passage

CUT = {"words": 5, "overlap": 2}


def stored(passages, directory, **options):
    located = ((Path("drawn.jsonl"), line, passage) for line, passage in enumerate(passages, 1))
    return write_store(located, directory, name="drawn.jsonl", **options)


def drawn(seed, count, texts=10**6):
    """Passages of all lengths and scripts, ids in no order."""
    rng = np.random.default_rng(seed)
    words = ("Arles", "北京", "a\nb", "é", "\x00", "town", "", " ", "😀")

    def text(least):
        return " ".join(rng.choice(words, rng.integers(least, 6))) + f"{rng.integers(texts)}"

    ids = rng.permutation(count * 3)[:count]
    return [Passage(f"é{number}", text(0) if number % 3 else "", text(1)) for number in ids]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "folder"])
def test_a_store_holds_what_the_files_say(kind, tmp_path):
    path = tmp_path / f"p.{kind}"
    if kind == "jsonl":
        write_jsonl(path, [vars(passage) for passage in drawn(0, 50)])
    elif kind == "csv":
        path.write_text('id,text\nx,"one\ntwo"\ny,"a, ""b"""\n')
    else:
        path.mkdir()
        (path / "b.txt").write_text("one two three\nfour five six seven eight nine")
        (path / "a.md").write_text("# Title\n\nbody")
    expected = list(read_passages(path, **CUT))
    store = build_store(path, tmp_path / "new" / "store", **CUT)
    assert list(store) == expected
    assert list(PassageStore(store.directory, verify=True)) == expected
    assert store.digest == digest_of(expected)
    assert [item.name for item in store.directory.parent.iterdir()] == ["store"]
    assert store.facts["source"]["name"] == path.name
    assert store.notes() == []


def test_a_store_is_a_sequence(tmp_path, monkeypatch):
    monkeypatch.setattr("ragjax.data.passage_files._BLOCK", 7)  # of which 40 is no multiple
    passages = drawn(1, 40)
    store = stored(passages, tmp_path / "store")
    assert (len(store), list(store)) == (40, passages)
    assert [store[np.int64(row)] for row in range(-40, 40)] == passages * 2
    for part in (slice(3, 9), slice(None), slice(30, 99), slice(9, 3), slice(None, None, -7)):
        assert store[part] == tuple(passages[part])
    for row in (40, -41):
        with pytest.raises(IndexError):
            store[row]
    assert passages[3] in store
    assert Passage("no", "", "x") not in store


@pytest.mark.parametrize("hash_bits", [64, 2], ids=["", "hashes that collide"])
def test_ids_are_found(hash_bits, tmp_path, monkeypatch):
    if hash_bits == 2:
        for module in (passage_store, passage_writer):
            monkeypatch.setattr(module, "hash_of", lambda data: sum(data) % 4)
    passages = drawn(2, 60)
    store = stored(passages, tmp_path / "store")
    rows = {passage.id: row for row, passage in enumerate(passages)}
    asked = [f"é{number}" for number in range(180)] + ["", "é", "\ud800"]
    assert store.row_of(asked).tolist() == [rows.get(name, -1) for name in asked]
    assert store.row_of([]).tolist() == []


@pytest.mark.parametrize("joined", ["", " "])
def test_words_divided_otherwise_are_no_repeat(joined, tmp_path):
    """Title and text may be equal only together, with whatever between them."""
    passages = [
        Passage("0", "New", f"York{joined}is big"),
        Passage("1", f"New{joined}York", "is big"),
    ]
    assert stored(passages, tmp_path / "store").facts["repeats"] == 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("hash_bits", [64, 2], ids=["", "hashes that collide"])
def test_repeats_are_told_and_dropped_if_asked(seed, hash_bits, tmp_path, monkeypatch):
    """By an oracle that keeps everything in memory."""
    if hash_bits == 2:
        for module in (passage_store, passage_writer):
            monkeypatch.setattr(module, "hash_of", lambda data: sum(data) % 4)
    rng = np.random.default_rng(seed)
    # Many repeats, few, and none; titles and texts that are equal only when they are joined.
    texts = rng.integers(1, (3, 30, 10**9)[seed % 3], 40)
    parts = [(str(text)[:1], str(text)[1:] + "0") for text in texts]
    passages = [Passage(f"{row}", *part) for row, part in enumerate(parts)]
    first: dict = {}
    repeats = [row for row, part in enumerate(parts) if first.setdefault(part, row) != row]
    expected = [
        f"drawn.jsonl, line {row + 1} repeats drawn.jsonl, line {first[parts[row]] + 1}"
        for row in repeats
    ]
    kept = stored(passages, tmp_path / "kept")
    assert list(kept) == passages
    assert (kept.facts["repeats"], kept.facts["repeats_named"]) == (len(repeats), expected[:3])
    unique = [passage for row, passage in enumerate(passages) if row not in repeats]
    fewer = stored(passages, tmp_path / "fewer", drop_repeats=True)
    assert list(PassageStore(fewer.directory, verify=True)) == unique
    assert fewer.digest == digest_of(unique)
    assert fewer.row_of([passage.id for passage in unique]).tolist() == list(range(len(unique)))
    assert fewer.facts["repeats"] == len(repeats)
    if repeats:
        told = f"{counted(len(repeats), 'passage')} with title and text of an earlier one"
        assert f"{told} kept (--drop-repeats leaves them out)" in kept.notes()[0]
        assert f"{told} left out: " in fewer.notes()[0]


def refused(directory, **options):
    with pytest.raises(UserError) as caught:
        PassageStore(directory, **options)
    message = str(caught.value)
    assert message.endswith("build it again with `ragjax index build`.")
    assert "\n" not in message
    return message


def failed(path, directory):
    """The sentence; nothing is left."""
    with pytest.raises(UserError) as caught:
        build_store(path, directory / "store", **CUT)
    assert list(directory.iterdir()) == []
    return str(caught.value)


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_ids_that_occur_twice_are_named(tmp_path, empty):
    rows = [{"id": name, "text": f"{name}{row}"} for row, name in enumerate("abcab")]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    assert failed(path, empty) == (
        f"2 passages have the id of an earlier one: 'a' of {path}, line 4 is that of {path}, line 1; "
        f"'b' of {path}, line 5 is that of {path}, line 2; give each passage an id of its own."
    )
    rows = [{"id": "x", "text": "y"}] * 9
    message = failed(write_jsonl(path, rows), empty)
    assert message.startswith("8 passages have")
    assert message.count(" is that of ") == 3
    assert "line 4 is that of" in message
    assert message.endswith("; and 5 more; give each passage an id of its own.")


def test_passages_without_a_text_are_left_out_and_named(tmp_path, empty):
    rows = [{"id": str(row), "text": "x" * (row % 2) + " "} for row in range(9)]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    store = build_store(path, tmp_path / "store", **CUT)
    assert [passage.id for passage in store] == list("1357")
    named = "; ".join(f"{path}, line {line}" for line in (1, 3, 5))
    assert store.notes()[0] == f"5 passages without a text left out: {named}; and 2 more"
    write_jsonl(path, rows[::2])
    assert failed(path, empty) == (
        f"{path} has no passage with a text (5 without one); a corpus needs at least one "
        "(--fields text=NAME names the column that holds it)."
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', "line 3 is not JSON"),
        (b'{"text": "\xff"}', "line 3 is not UTF-8"),
        (b'{"text": "\\ud800"}', "line 3 holds '\\ud800', which is half of a character"),
        (b'{"id": " ", "text": "x"}', "line 3 has an empty id"),
        (b'{"id": 1.5, "text": "x"}', "line 3: 'id' is 1.5; it must be a text"),
    ],
)
def test_a_broken_line_is_named_and_nothing_is_left(line, message, tmp_path, empty):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}\n')
    assert message in failed(path, empty)


def test_what_is_made_without_a_file_is_checked(tmp_path):
    with pytest.raises(UserError, match=r"drawn\.jsonl, line 1 holds .* half of a character"):
        stored([Passage("a", "\ud800", "x")], tmp_path / "store")


def test_a_file_that_moved_to_another_folder_is_another_source(tmp_path):
    """For the ids of its passages are others."""
    for folder in ("a", "b"):
        (tmp_path / "texts" / folder).mkdir(parents=True)
    (tmp_path / "texts/a/x.txt").write_text("Ada lives in Arles.")
    before = source_of(tmp_path / "texts", **CUT)
    (tmp_path / "texts/a/x.txt").rename(tmp_path / "texts/b/x.txt")
    assert source_of(tmp_path / "texts", **CUT) != before
    (tmp_path / "texts/b/x.txt").rename(tmp_path / "texts/a/x.txt")
    assert source_of(tmp_path / "texts", **CUT) == before


def test_another_directory_is_not_overwritten(tmp_path):
    store = stored(drawn(3, 3), tmp_path / "store")
    with pytest.raises(UserError, match="already exists; delete it or name another directory"):
        stored(drawn(4, 3), store.directory)
    assert list(PassageStore(store.directory)) == drawn(3, 3)
    assert list(stored(drawn(4, 3), store.directory, replace=True)) == drawn(4, 3)
    assert len(list(tmp_path.iterdir())) == 1


# Damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return stored(drawn(5, 30), tmp_path_factory.mktemp("sound") / "store").directory


def test_a_store_that_was_cut_is_refused(sound, tmp_path):
    """At 100 places, wherever; sizes alone tell."""
    rng = np.random.default_rng(0)
    files = sorted(sound.iterdir())
    assert len(files) == 5
    for number in range(100):
        path = files[number % 5]
        data = path.read_bytes()
        directory = Path(shutil.copytree(sound, tmp_path / str(number)))
        length = len(data) - 1 if number < 5 else int(rng.integers(len(data)))
        (directory / path.name).write_bytes(data[:length])
        assert str(directory) in refused(directory, verify=False)


@pytest.mark.parametrize("place", range(5))
def test_a_store_that_was_edited_is_refused(place, sound, tmp_path, monkeypatch):
    directory = Path(shutil.copytree(sound, tmp_path / "edited"))
    path = sorted(directory.iterdir())[place]
    data = bytearray(path.read_bytes())
    where = data.index(b"30") if path.name == "manifest.json" else len(data) // 2
    data[where] ^= 1
    path.write_bytes(data)
    assert "edited" in refused(directory)
    if path.name != "manifest.json":
        monkeypatch.setattr(manifests, "CHEAP", 0)  # as of a corpus of gigabytes
        assert len(PassageStore(directory)) == 30
    assert "edited" in refused(directory, verify=True)


def test_what_is_no_store_is_refused(sound, tmp_path):
    assert "is not a directory of passages" in refused(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    assert "manifest.json can't be read" in refused(tmp_path / "other")
    (tmp_path / "other" / "text.bin").write_bytes(b"x")
    manifests.write_manifest(tmp_path / "other", "embeddings", {}, ("text.bin",))
    assert "is of 'embeddings', format 1, but 'passages'" in refused(tmp_path / "other")
    directory = Path(shutil.copytree(sound, tmp_path / "fewer"))
    (directory / "id_rows.bin").unlink()
    assert "id_rows.bin can't be read" in refused(directory)


# Memory

MEASURED = """
import re, sys
from pathlib import Path
from ragjax.data.passage_store import write_store
from ragjax.types import Passage

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) * 1024

text, directory = "a town by a river; " * 15, Path(sys.argv[1])
located = ((Path("p"), row, Passage(f"p{row}", "", f"{text}{row}")) for row in range(200_000))
before = peak()
store = write_store(located, directory, name="p")
built = peak()
assert sum(len(passage.text) for passage in store) > 50_000_000
print((directory / "text.bin").stat().st_size, built - before, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_little_of_a_corpus_is_in_memory(tmp_path):
    """200,000 passages of 60 MB; the kernel's peak of the process, since it began."""
    words = [sys.executable, "-c", MEASURED, str(tmp_path / "store")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    size, building, reading = map(int, done.stdout.split())
    assert size > 55_000_000
    assert building < size / 4
    assert reading < size / 4
