"""ScaNN against exact search in NumPy, on the host and inside compiled programs."""

import dataclasses
import functools
import json
import logging
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled
from processes import finish, kill, wait_for

from ragjax.errors import UserError
from ragjax.manifests import MANIFEST, write_manifest
from ragjax.retrieval import scann as module
from ragjax.retrieval.exact import Exact
from ragjax.retrieval.scann import Scann, build_searcher, fingerprint
from ragjax.retrieval.scann_searcher import KIND, ScannSearcher, load
from ragjax.run_dir import CHECKPOINTS, load_run
from ragjax.training.checkpoint import Checkpoints

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parents[1] / "support"

ROWS, WIDTH = 3_000, 16
LARGE = Scann(exact_below=16)  # a corpus of these tests is a large one


def drawn(count, seed):
    """Rows around fifty centres, which are always the same."""
    centres = np.random.default_rng(0).standard_normal((50, WIDTH))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(50, size=count)] + 0.5 * rng.standard_normal((count, WIDTH))
    return rows.astype(np.float32)


EMBEDDINGS, QUERIES = drawn(ROWS, 1), drawn(300, 2)


@functools.cache
def searcher() -> ScannSearcher:
    return build_searcher(EMBEDDINGS, LARGE)


@functools.cache
def program(k=10, spec=LARGE):
    """(index, query) -> `TopK`, compiled once."""
    return jax.jit(lambda index, query: spec.search(index, query, k))


BUILD = jax.jit(LARGE.build)


@functools.cache
def built(seed=1, rows=ROWS):
    return BUILD(drawn(rows, seed))


@pytest.fixture
def builds(monkeypatch):
    """Nothing is kept at the start; lists the sizes of the indexes that are built on the host."""
    sizes, build = [], module.build_searcher

    def counting(embeddings, spec):
        sizes.append(len(embeddings))
        return build(embeddings, spec)

    monkeypatch.setattr(module, "build_searcher", counting)
    module._kept.clear()
    module._dropped.clear()
    return sizes


def assert_same(found, expected):
    for name in ("ids", "scores", "valid"):
        one, other = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=name)


def by_sorting(scores, k):
    return np.argsort(-scores, axis=-1, kind="stable")[:, :k]


# What is found


@pytest.mark.parametrize("target", [0.7, 0.95, 1.0])
def test_recall_of_other_queries_is_what_was_asked_for(target):
    spec = dataclasses.replace(LARGE, recall=target)
    built = searcher() if target == LARGE.recall else build_searcher(EMBEDDINGS, spec)
    found = built.search(QUERIES, 10)
    expected = by_sorting(QUERIES.astype(np.float64) @ EMBEDDINGS.T.astype(np.float64), 10)
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(found.ids, expected, strict=True)])
    assert built.plan.recall >= target
    assert recall >= target - 0.015  # of 300 queries that it was not measured with
    assert abs(recall - built.plan.recall) < 0.05
    assert built.plan.leaves == 54  # the root of 3,000
    if target == 0.7:
        assert recall < 1  # it does leave something out
        assert built.plan.leaves_to_search < searcher().plan.leaves_to_search


def test_where_the_leaves_are_given_more_rows_are_scored_again_for_the_recall():
    built = build_searcher(EMBEDDINGS, dataclasses.replace(LARGE, leaves_to_search=54, recall=1.0))
    assert built.plan.leaves_to_search == 54
    assert built.plan.reorder > 30  # more than the cheapest plan has
    assert built.plan.recall == 1.0


def test_recall_of_more_passages_is_no_lower():
    """As many more are scored exactly."""
    found = searcher().search(QUERIES, 100)
    expected = by_sorting(QUERIES.astype(np.float64) @ EMBEDDINGS.T.astype(np.float64), 100)
    recall = np.mean([len({*a} & {*b}) / 100 for a, b in zip(found.ids, expected, strict=True)])
    assert recall >= LARGE.recall - 0.05


def test_scores_are_exact_and_in_order():
    found = searcher().search(QUERIES, 20)
    exact = np.einsum(
        "md,mkd->mk", *(x.astype(np.float64) for x in (QUERIES, EMBEDDINGS[found.ids]))
    )
    np.testing.assert_allclose(found.scores, exact, rtol=1e-6, atol=1e-5)
    assert np.all(np.diff(found.scores) <= 0)
    assert all(len({*row}) == 20 for row in found.ids)
    assert found.valid.all()
    assert (found.ids.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_ties_go_to_the_lower_row():
    twice = np.concatenate([EMBEDDINGS[:500], EMBEDDINGS[:500]])
    spec = dataclasses.replace(LARGE, leaves=4, leaves_to_search=4, reorder=1000)
    found = build_searcher(twice, spec).search(QUERIES[:50], 10)
    assert np.all(found.ids[:, 1::2] == found.ids[:, ::2] + 500)
    assert np.all(found.scores[:, 1::2] == found.scores[:, ::2])


def test_what_is_searched_holds_too_few_rows():
    spec = dataclasses.replace(LARGE, leaves=50, leaves_to_search=1, reorder=10)
    found = build_searcher(EMBEDDINGS, spec).search(QUERIES[:20], 600)
    hits = found.valid.sum(axis=1)
    assert np.all((hits > 0) & (hits < 600))
    for row, count in enumerate(hits):
        assert found.valid[row, :count].all()
        assert np.all(found.ids[row, :count] >= 0)
        assert np.all(found.ids[row, count:] == -1)
        assert np.all(found.scores[row, count:] == -np.inf)
        assert len({*found.ids[row, :count]}) == count


def test_a_recall_that_fixed_numbers_miss_is_said(caplog):
    spec = dataclasses.replace(LARGE, leaves_to_search=1, reorder=10)
    with caplog.at_level(logging.WARNING):
        plan = build_searcher(EMBEDDINGS, spec).plan
    assert plan.recall < 0.95
    assert f"recall@10 is {plan.recall:.3f}, below 0.95" in caplog.text


def test_questions_of_another_kind_are_measured_if_given():
    odd = np.random.default_rng(3).standard_normal((100, WIDTH)).astype(np.float32)
    plan = build_searcher(EMBEDDINGS, LARGE, odd).plan
    assert plan.recall >= 0.95
    assert plan != searcher().plan


@pytest.mark.parametrize("k", [1, 7, 300])
def test_a_small_corpus_is_searched_as_exact_does(k):
    """Whole numbers, so that nothing is rounded and there are ties."""
    rng = np.random.default_rng(5)
    rows, queries = (rng.integers(-3, 4, size=(n, 6)).astype(np.float32) for n in (300, 40))
    small = build_searcher(rows, Scann())
    expected = jax.device_get(Exact().search(jnp.asarray(rows), jnp.asarray(queries), k))
    assert small.native is None
    np.testing.assert_array_equal(expected.ids, by_sorting(queries @ rows.T, k))
    assert_same(small.search(queries, k), expected)
    assert_same(Scann().search(Scann().build(jnp.asarray(rows)), jnp.asarray(queries), k), expected)


def test_built_twice_it_is_the_same(tmp_path):
    again = build_searcher(EMBEDDINGS, LARGE)
    assert again.plan == searcher().plan
    assert_same(again.search(QUERIES, 10), searcher().search(QUERIES, 10))
    for name, one in (("a", again), ("b", searcher())):
        one.save(tmp_path / name)
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


def test_nothing_is_written_to_standard_error(capfd):
    build_searcher(EMBEDDINGS[:500], LARGE).search(QUERIES, 10)
    assert capfd.readouterr() == ("", "")


# Inside a compiled program


def test_within_a_program_as_on_the_host():
    query = QUERIES[:12].reshape(2, 6, WIDTH)
    found = jax.device_get(program()(built(), query))
    expected = searcher().search(QUERIES[:12], 10)
    assert_same(found, jax.tree.map(lambda leaf: leaf.reshape(2, 6, 10), expected))


def test_the_second_call_compiles_nothing():
    program()(built(), QUERIES[:12])
    with compiled() as names:
        program()(built(), QUERIES[12:24])
        program()(built(seed=9), QUERIES[:12])
    assert names == []


def test_no_gradient_and_shapes_without_computing():
    def total(embeddings, query):
        return jnp.sum(LARGE.search(LARGE.build(embeddings), query, 3).scores)

    for gradient in jax.jit(jax.grad(total, (0, 1)))(EMBEDDINGS[:200], QUERIES[:8]):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
    shapes = jax.eval_shape(LARGE.build, jnp.asarray(EMBEDDINGS))
    assert shapes["embeddings"].shape == EMBEDDINGS.shape
    assert (shapes["key"].shape, shapes["key"].dtype) == ((2,), jnp.uint32)


def test_side_by_side_as_one_by_one(builds):
    """Queries are one batch; indexes, as of several seeds, are searched in turn."""
    query = QUERIES[:24].reshape(3, 8, WIDTH)
    each = jax.jit(jax.vmap(lambda index, query: LARGE.search(index, query, 5), (None, 0)))
    assert_same(each(built(), query), program(5)(built(), query))
    assert builds == [ROWS]
    several = [built(seed, rows=200) for seed in (6, 7, 8)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    search = jax.jit(jax.vmap(lambda index, query: LARGE.search(index, query, 5)))
    for _ in range(2):
        found = search(stacked, query)
        assert builds == [ROWS, 200, 200, 200]  # each once
    for place, index in enumerate(several):
        expected = program(5)(index, query[place])
        assert_same(jax.tree.map(lambda leaf, place=place: leaf[place], found), expected)


@pytest.mark.parametrize("seeds", [0, 2])
def test_refresh_within_a_step(builds, seeds):
    """As in training: an index that is not due is neither hashed nor built."""

    def step(index, due, embeddings, query):
        index = jax.lax.cond(due, lambda: LARGE.build(embeddings), lambda: index)
        return index, LARGE.search(index, query, 5)

    old, new, query = drawn(200, 10), drawn(200, 11), QUERIES[:8]
    index = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(LARGE.build, old))
    if seeds:
        old, new, query = (np.stack([x, x[::-1]]) for x in (old, new, query))
        index = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), index)
        step = jax.vmap(step, (0, None, 0, 0))
    run, found = jax.jit(step, donate_argnums=0), []
    for due, embeddings in ((True, old), (False, new), (True, new), (False, old)):
        index, hits = run(index, due, embeddings, query)
        found.append(jax.device_get(hits))
    assert builds == [200] * 2 * max(seeds, 1)
    assert_same(found[0], found[1])
    assert_same(found[2], found[3])
    rows, asked, hits = (new, query, found[2]) if not seeds else (new[1], query[1], None)
    hits = hits or jax.tree.map(lambda leaf: leaf[1], found[2])
    assert_same(hits, build_searcher(rows, LARGE).search(asked, 5))


def test_a_new_process_finds_the_same(builds):
    """Nothing is kept there, and the first search builds it from the embeddings of the state."""
    first = jax.device_get(program()(built(), QUERIES[:12]))
    module._kept.clear()
    assert_same(program()(built(), QUERIES[:12]), first)
    assert_same(program()(built(), QUERIES[:12]), first)
    assert builds == [ROWS, ROWS]


@pytest.mark.parametrize("shape", [(7, WIDTH), (WIDTH,), (1, 3, WIDTH)])
def test_few_queries_are_searched_exactly_and_nothing_is_built(builds, shape):
    """As of one question that a run is asked; also one by one under vmap, unless that makes many."""
    query = QUERIES.reshape(-1)[: np.prod(shape)].reshape(shape)
    expected = Exact().search(built()["embeddings"], jnp.asarray(query), 10)
    found = program()(built(), query)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    assert found.valid.all()
    assert builds == []
    each = jax.jit(jax.vmap(lambda index, query: LARGE.search(index, query, 10), (None, 0)))
    many = np.stack([query] * 8)
    found = each(built(), many)
    assert builds == [ROWS]
    assert found.ids.shape == (*many.shape[:-1], 10)


def test_a_prepared_index_is_there_when_it_is_searched(builds):
    LARGE.prepare(built())
    assert builds == [ROWS]
    assert_same(program()(built(), QUERIES[:12]), searcher().search(QUERIES[:12], 10))
    assert builds == [ROWS]
    Scann().prepare(built())  # small enough to be searched exactly
    assert builds == [ROWS]


def test_a_search_waits_for_no_other_index(builds, monkeypatch):
    """While one is built: a kept one is searched, another one built, and the same one built once."""
    go_on, begun, counting = threading.Event(), threading.Event(), module.build_searcher

    def slow(embeddings, spec):
        if len(embeddings) == 200:
            begun.set()
            assert go_on.wait(10)
        return counting(embeddings, spec)

    LARGE.prepare(built())
    small, other = built(6, rows=200), built(7, rows=300)
    monkeypatch.setattr(module, "build_searcher", slow)
    with ThreadPoolExecutor() as threads:
        beside = threads.submit(LARGE.prepare, small)
        assert begun.wait(30)
        again = threads.submit(lambda: jax.device_get(program(5)(small, QUERIES[:8])))
        assert program(5)(built(), QUERIES[:8]).valid.all()
        LARGE.prepare(other)
        assert builds == [ROWS, 300]
        assert not beside.done()
        assert not again.done()
        go_on.set()
        beside.result(30)
        assert again.result(30).valid.all()
    assert builds == [ROWS, 300, 200]


def test_what_goes_wrong_in_a_build_is_raised_and_tried_again(builds, monkeypatch):
    counting = module.build_searcher

    def broken(embeddings, spec):
        raise MemoryError("no room")

    monkeypatch.setattr(module, "build_searcher", broken)
    with pytest.raises(MemoryError, match="no room"):
        LARGE.prepare(built())
    monkeypatch.setattr(module, "build_searcher", counting)
    LARGE.prepare(built())
    assert builds == [ROWS]


def test_only_the_newest_are_kept(builds, monkeypatch, caplog):
    monkeypatch.setattr(module, "KEPT_BYTES", 200 * WIDTH * 4 * 3)
    indexes = [built(seed, rows=200) for seed in range(5)]
    for index in indexes:
        jax.block_until_ready(program(5)(index, QUERIES[:8]))
    assert len(module._kept) == 3
    jax.block_until_ready(program(5)(built(), QUERIES[:8]))  # larger than all that may be kept
    assert len(module._kept) == 2
    assert caplog.text == ""
    jax.block_until_ready(program(5)(indexes[0], QUERIES[:8]))
    assert "a ScaNN index of 200 passages is built again" in caplog.text
    assert len(builds) == 7


def test_numbers_that_are_none_find_nothing(builds):
    query = QUERIES[:12].copy()
    query[1, 3], query[4, 0] = np.nan, np.inf
    found = jax.device_get(program()(built(), query))
    assert np.flatnonzero(~found.valid.all(axis=1)).tolist() == [1, 4]
    for row in (1, 4):
        assert np.all(found.ids[row] == -1)
        assert np.all(found.scores[row] == -np.inf)
    good = [0, 2, 3, *range(5, 12)]
    assert_same(jax.tree.map(lambda leaf: leaf[good], found), searcher().search(query[good], 10))
    broken = built()["embeddings"].at[5, 1].set(jnp.nan)
    found = jax.device_get(program()(BUILD(broken), QUERIES[:12]))
    assert not found.valid.any()
    assert builds == [ROWS]


def test_fingerprints():
    def oracle(embeddings):
        with np.errstate(over="ignore"):

            def mix(bits):
                bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
                bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
                return bits ^ (bits >> np.uint32(16))

            rows, columns = (np.arange(n, dtype=np.uint32) for n in embeddings.shape)
            place = columns * np.uint32(0x9E3779B1)
            return [
                np.sum(
                    mix(
                        embeddings.view(np.uint32) ^ mix(mix(rows + np.uint32(s))[:, None] + place)
                    ),
                    dtype=np.uint32,
                )
                for s in (0x2545F491, 0x9E3779B9)
            ]

    hashed, seen = jax.jit(fingerprint), set()
    embeddings = EMBEDDINGS[:200]
    swapped, nudged, moved = embeddings[::-1].copy(), embeddings.copy(), embeddings.copy()
    nudged[7, 3] = np.nextafter(nudged[7, 3], np.float32(9))
    moved[5, [0, 1]] = moved[5, [1, 0]]
    for each in (embeddings, swapped, nudged, moved, np.zeros_like(embeddings)):
        np.testing.assert_array_equal(hashed(each), oracle(each))
        seen |= {int(lane) for lane in hashed(each)}
    assert len(seen) == 10
    assert 0 not in seen


# Saved and loaded


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "index"
    searcher().save(directory)
    return directory


def test_loaded_it_finds_the_same(saved, tmp_path):
    moved = tmp_path / "elsewhere" / "index"
    moved.parent.mkdir()
    moved.symlink_to(saved)
    for embeddings in (None, EMBEDDINGS):
        loaded = load(moved, embeddings)
        assert loaded.plan == searcher().plan
        assert_same(loaded.search(QUERIES, 10), searcher().search(QUERIES, 10))
    small = build_searcher(EMBEDDINGS[:100], Scann())
    small.save(tmp_path / "small")
    assert_same(load(tmp_path / "small").search(QUERIES, 10), small.search(QUERIES, 10))


def test_nothing_saved_is_a_pickle_or_names_a_place(saved):
    names = {path.name for path in saved.iterdir()}
    assert names == {MANIFEST, *json.loads((saved / MANIFEST).read_text())["files"]}
    assert len(names) == 8
    for path in saved.iterdir():
        assert path.suffix in {".npy", ".pb", ".pbtxt", ".json"}
        content = path.read_bytes()
        assert str(saved.parent).encode() not in content
        if path.suffix == ".npy":
            assert np.load(path, allow_pickle=False).size
        else:
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, it is no pickle
                pickle.loads(content)


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_lies_there_is_not_read(saved, tmp_path):
    copy = tmp_path / "index"
    copy_files(saved, copy)
    sprung = tmp_path / "sprung"
    (copy / "scann_docids.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    assert_same(load(copy).search(QUERIES, 10), searcher().search(QUERIES, 10))
    assert not sprung.exists()


def copy_files(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def test_cut_files_are_refused(saved, tmp_path):
    copy, rng = tmp_path / "index", np.random.default_rng(6)
    copy_files(saved, copy)
    files = sorted(copy.iterdir())
    for number in range(104):
        path = files[number % len(files)]
        whole = path.read_bytes()
        # The manifest's last character is the end of its line.
        path.write_bytes(whole[: rng.integers(len(whole) - 1)])
        with pytest.raises(UserError, match=r"(build the index again)\.$") as refused:
            load(copy)
        assert path.name in str(refused.value)
        path.write_bytes(whole)
    load(copy)


def test_files_of_another_index_are_refused(saved, tmp_path):
    other = tmp_path / "other"
    build_searcher(drawn(ROWS, 20), LARGE).save(other)
    for path in other.iterdir():
        if path.read_bytes() == (saved / path.name).read_bytes():
            continue
        copy = tmp_path / f"with_{path.name}"
        copy_files(saved, copy)
        (copy / path.name).write_bytes(path.read_bytes())
        with pytest.raises(UserError, match=r"build the index again\.$"):
            load(copy)
    for name in (MANIFEST, "dataset.npy", "ah_codebook.pb"):
        copy = tmp_path / f"without_{name}"
        copy_files(saved, copy)
        (copy / name).unlink()
        with pytest.raises(UserError, match=name):
            load(copy)
    manifest = json.loads((saved / MANIFEST).read_text())
    names, _ = list(manifest.pop("files")), manifest.pop("seal")
    for kind, changed, said in (
        (KIND, {"scann": "1.3.0"}, "was written by scann 1.3.0, but"),
        (KIND, {"shape": [ROWS, 8]}, "holds other rows"),
        ("passages", {}, "is of 'passages', format 1, but 'ScaNN index'"),
    ):
        copy = tmp_path / said[:20]
        copy_files(saved, copy)
        write_manifest(copy, kind, manifest | {"kind": kind} | changed, names)
        with pytest.raises(UserError, match=said):
            load(copy)
    whole = (saved / MANIFEST).read_text()
    for old, new in (('"leaves": 54', '"leaves": 53'), ("dataset.npy", "../set.npy")):
        assert old in whole
        (copy / MANIFEST).write_text(whole.replace(old, new))
        with pytest.raises(UserError, match="was cut or edited; build the index again"):
            load(copy)
    for text in ("{}", '{"plan": {"leaves": 3}, "shape": [1], "files": {}}', "[]"):
        (copy / MANIFEST).write_text(text)
        with pytest.raises(UserError, match="build the index again"):
            load(copy)


def test_an_index_of_other_embeddings_is_refused(saved):
    with pytest.raises(UserError, match="index of 3000 rows of 16 numbers, but there are 3000 x 8"):
        load(saved, EMBEDDINGS[:, :8])
    with pytest.raises(UserError, match="index of other embeddings than those given"):
        load(saved, EMBEDDINGS[::-1])


def test_a_directory_is_written_whole_or_not_at_all(saved, tmp_path):
    with pytest.raises(UserError, match="already exists"):
        searcher().save(saved)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        searcher().save(tmp_path / "file" / "index")

    class Full:
        def serialize(self, directory, relative_path):
            raise RuntimeError("no space left")

    broken = dataclasses.replace(searcher(), native=Full())
    with pytest.raises(UserError, match="no space left"):
        broken.save(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# What is refused


def test_what_the_host_refuses():
    with pytest.raises(UserError, match="queries have 8 numbers, but the index has rows of 16"):
        searcher().search(QUERIES[:, :8], 3)
    for k in (0, ROWS + 1):
        with pytest.raises(UserError, match=f"k is {k}, but there are {ROWS} passages"):
            searcher().search(QUERIES, k)
        with pytest.raises(UserError, match=f"k is {k}, but there are {ROWS} passages"):
            LARGE.search(built(), jnp.asarray(QUERIES), k)
    for value in (np.nan, -np.inf, 1e30):
        bad = EMBEDDINGS[:100].copy()
        bad[[8, 9], 2] = value
        with pytest.raises(
            UserError, match=r"queries hold NaN .* in 2 of 100 rows, first in row 8"
        ):
            searcher().search(bad, 3)
        with pytest.raises(
            UserError, match=r"embeddings hold NaN .* in 2 of 100 rows, first in row 8"
        ):
            build_searcher(bad, LARGE)
    with pytest.raises(UserError, match="no embeddings to search"):
        build_searcher(EMBEDDINGS[:0], LARGE)
    assert searcher().search(QUERIES[:0], 3).ids.shape == (0, 3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"recall": 0.0}, "recall is 0.0"),
        ({"recall": 1.5}, "recall is 1.5"),
        ({"leaves": -1}, "leaves is -1"),
        ({"leaves": 5, "leaves_to_search": 6}, "leaves_to_search is 6, but there are 5 leaves"),
        ({"reorder": 9}, "reorder is 9"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"exact_below": 15}, "exact_below is 15"),
    ],
)
def test_fields_are_checked(fields, said):
    with pytest.raises(UserError, match=rf"^retriever\.index\.{said}"):
        Scann(**fields)


@pytest.mark.parametrize(
    ("rows", "leaves"),
    [
        (16, 4),
        (3000, 54),
        (20_000, 200),
        (100_000, 632),
        (200_000, 894),
        (10**6, 1000),
        (10**8, 10**4),
    ],
)
def test_leaves_by_the_number_of_passages(rows, leaves):
    """Twice the root of 100,000 and of 200,000: more would be trained on fewer than 100 rows each."""
    assert Scann().leaves_of(rows) == leaves


def test_plans_come_in_the_order_of_their_cost():
    """Of 20,000 rows in 200 partitions: 100 to a partition, and a row scored exactly costs 20."""
    plans = module._plans(Scann(), 200, 20_000)
    costs = [100 * searched + 20 * reorder for searched, reorder in plans]
    assert costs == sorted(costs)
    assert (plans[0], plans[-1]) == ((1, 30), (200, 20_000))
    assert len(set(plans)) == len(plans)
    assert {searched for searched, reorder in plans if reorder > 480} == {200}
    fixed = module._plans(Scann(leaves_to_search=7, reorder=90), 200, 20_000)
    assert fixed == [(7, 90)]


@pytest.mark.parametrize("fields", [{"leaves": 201}, {"leaves_to_search": 15}])
def test_more_leaves_than_passages(fields):
    spec = dataclasses.replace(LARGE, **fields)
    ((name, value),) = fields.items()
    with pytest.raises(UserError, match=f"{name} is {value}, but of 200 passages"):
        build_searcher(EMBEDDINGS[:200], spec)
    with pytest.raises(UserError, match=f"{name} is {value}, but of 200 passages"):
        spec.search(built(rows=200), jnp.asarray(QUERIES), 3)


def test_without_scann(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann.scann_ops.py", None)
    said = r"scann can't be imported .* Linux x86_64 .* choose retriever\.index Exact\.$"
    with pytest.raises(UserError, match=said):
        LARGE.search(built(), jnp.asarray(QUERIES), 3)
    with pytest.raises(UserError, match=said):
        build_searcher(EMBEDDINGS, LARGE)
    assert build_searcher(EMBEDDINGS, Scann()).search(QUERIES, 3).valid.all()


# A run


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(processes, tmp_path):
    """To the bit: the checkpoint falls between two refreshes, and the searcher is trained again."""

    def train(run_dir, *words):
        return ["train", SUPPORT / "scann_config.py", "--run-dir", run_dir, *words]

    whole, cut, marker = tmp_path / "whole", tmp_path / "cut", tmp_path / "there"
    reference = processes(train(whole))
    process = processes(train(cut), (SUPPORT / "paused.py", "step", 6, marker))
    wait_for(process, marker)
    kill(process)
    assert Checkpoints(cut / CHECKPOINTS).steps() == [4]
    finish(reference)
    assert "continuing at step 4 of 6" in finish(processes(train(cut, "--resume")))
    for name in ("metrics.jsonl", "predictions.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["index_age"] for row in rows if "loss" in row] == [0, 1, 2, 0, 1, 2]
    states = [load_run(run_dir).state for run_dir in (whole, cut)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert set(states[0].index.embeddings) == {"embeddings", "key"}
