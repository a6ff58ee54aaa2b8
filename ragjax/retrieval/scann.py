"""Approximate maximum-inner-product search by ScaNN, for large corpora, on the host."""

import dataclasses
import logging
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from ragjax.errors import require
from ragjax.retrieval.base import Index, require_depth
from ragjax.retrieval.blocks import best_in_blocks
from ragjax.retrieval.scann_searcher import (
    DEPTH,
    TRAINED_ON,
    Plan,
    ScannSearcher,
    import_scann,
    measured_recall,
    require_usable,
    tenth_best,
    train,
    usable,
)
from ragjax.types import TopK

FEWEST = 16  # rows; codes have 16 centres
SAMPLE = 256  # rows of the corpus that the search is measured with
FEW = 8  # queries; fewer are searched exactly
PER_LEAF = 100  # rows that each of more than √N partitions is trained on at least
ROW_COST = 20  # of a row that is scored exactly, in those of one scored by its code; measured
KEPT_BYTES = 1 << 30
KEPT = 2  # a training run's own index, and the one that it is measured with

Name = tuple["Scann", tuple[int, ...], bytes]

_log = logging.getLogger(__name__)
_lock = threading.Lock()  # of the two below; nothing is built while it is held
_kept: "OrderedDict[Name, Future[ScannSearcher | None]]" = OrderedDict()
_dropped: "deque[Name]" = deque(maxlen=256)


@dataclass(frozen=True)
class Scann(Index):
    """Tree and anisotropic hashing (Guo et al. 2020), then exact scores of the rows that look best.

    Rows are put in `leaves` partitions by k-means. For a query the `leaves_to_search` best ones are
    searched by 4-bit codes, a code for 2 dimensions; the `reorder` best rows are scored exactly. What is
    0 is chosen by Google's guidance and by measuring:

    - below `exact_below` passages all are scored, as by `Exact`, and nothing leaves the device; so they
      are in a search of fewer than 8 queries, such as one question that a run is asked;
    - leaves: the square root of the number of passages, or up to twice it where partitions are trained
      on at least 100 passages each;
    - leaves to search (from a 256th of the leaves on) and reorder (from 30 on) are those of the least
      cost, estimated by the rows that they read, at which recall@10 of 256 of the corpus's own rows,
      taken as queries, is `recall` with a standard error to spare. `build_searcher` measures with
      questions instead, if it is given some: questions that are unlike passages may be found worse.

    The searcher lives on the host and is no array: a run's state holds the embeddings and a fingerprint
    of them. A search asks the host for the searcher of that fingerprint; only if it has none, the
    embeddings are sent there and one is built. So an index that is built anew costs nothing before it is
    searched, and a run that is resumed in a new process goes on to the bit. The newest searchers are
    kept, as many as 1 GiB of embeddings (ScaNN holds as much again), and at least 2. They are not saved
    with a run: each process trains its own, and each measurement of averaged parameters one more. An
    index that is refreshed beside the training is trained there, too (`prepare`).

    Where ScaNN searches, a query that holds NaN finds nothing, and neither does any query of an index
    that holds NaN: a compiled program can't raise. The gradient of such parameters is NaN all the same.

    Attributes:
      recall: recall@10 to reach.
      leaves: partitions; 0 chooses.
      leaves_to_search: partitions searched for a query; 0 chooses.
      reorder: rows scored exactly for a query that wants 10, in proportion if it wants more; 0 chooses.
      threshold: of anisotropic hashing; 0.2 is the guidance for inner products of unit length.
      exact_below: passages below which all are scored; at least 16.
    """

    recall: float = 0.95
    leaves: int = 0
    leaves_to_search: int = 0
    reorder: int = 0
    threshold: float = 0.2
    exact_below: int = 20_000

    def __post_init__(self):
        """Checks the fields."""
        field = "retriever.index."
        require(0 < self.recall <= 1, f"{field}recall is {self.recall}; it must be in (0, 1].")
        for name in ("leaves", "leaves_to_search", "reorder"):
            value = getattr(self, name)
            require(value >= 0, f"{field}{name} is {value}; choose at least 1, or 0 to measure it.")
        require(
            not self.leaves or self.leaves_to_search <= self.leaves,
            f"{field}leaves_to_search is {self.leaves_to_search}, but there are {self.leaves} leaves; "
            "choose at most as many.",
        )
        require(
            not 0 < self.reorder < DEPTH,
            f"{field}reorder is {self.reorder}; choose at least {DEPTH}, or 0 to measure it.",
        )
        require(
            0 < self.threshold < 1, f"{field}threshold is {self.threshold}; it must be in (0, 1)."
        )
        require(
            self.exact_below >= FEWEST,
            f"{field}exact_below is {self.exact_below}; codes need at least {FEWEST} passages to be "
            "trained on.",
        )

    def build(self, embeddings: Float[Array, "N D"]) -> dict[str, Array]:
        """The embeddings [N,D] in float32 and their fingerprint [2]; traceable, see the class."""
        embeddings = embeddings.astype(jnp.float32)
        return {"embeddings": embeddings, "key": fingerprint(embeddings)}

    def rows(self, index: dict[str, Array]) -> Float[Array, "N D"]:
        """See `Index.rows`; they are float32."""
        return index["embeddings"]

    def prepare(self, index: dict[str, Array]) -> None:
        """Builds the searcher of an index, so that no search has to wait for it."""
        if len(index["embeddings"]) >= self.exact_below:
            # Fetched first: a program that waits for this searcher may hold up the device.
            index = jax.device_get(index)
            _searcher_of(self, index["key"], index["embeddings"])

    def search(self, index: dict[str, Array], query: Float[Array, "*batch D"], k: int) -> TopK:
        """See `Index.search`; the scores are float32 inner products, ties by the lower row.

        Raises:
          UserError: k exceeds the number of passages, ScaNN is not installed, or there are more leaves
            than passages.
        """
        index, query = jax.lax.stop_gradient((index, query.astype(jnp.float32)))
        rows = len(index["embeddings"])
        require_depth(k, rows)
        if rows < self.exact_below:
            return best_in_blocks(index["embeddings"], query, k)
        import_scann()
        self.leaves_of(rows)
        ids, scores = _search_on_host(self, k)(index, query)
        return TopK(ids, scores, ids >= 0)

    def search_exactly(
        self, index: dict[str, Array], query: Float[Array, "*batch D"], k: int
    ) -> TopK:
        """See `Index.search_exactly`."""
        return best_in_blocks(index["embeddings"], query.astype(jnp.float32), k)

    def leaves_of(self, rows: int) -> int:
        """Partitions of a corpus.

        Raises:
          UserError: there are fewer rows, or more leaves are to be searched.
        """
        root = math.isqrt(rows)
        many = min(2 * root, min(rows, TRAINED_ON) // PER_LEAF)
        leaves = self.leaves or max(root, many)
        for name, value, most in (
            ("leaves", leaves, rows),
            ("leaves_to_search", self.leaves_to_search, leaves),
        ):
            require(
                value <= most,
                f"retriever.index.{name} is {value}, but of {rows} passages there can be at most "
                f"{most}; choose fewer, or 0.",
            )
        return leaves


def build_searcher(
    embeddings: Float[np.ndarray, "N D"],
    spec: Scann,
    queries: Float[np.ndarray, "M D"] | None = None,
) -> ScannSearcher:
    """Builds an index on the host; the same arguments give the same one, to the bit.

    Args:
      embeddings: [N,D] rows; kept as they are if they are float32 and contiguous, else copied.
      spec: says how.
      queries: [M,D] to measure recall with; None for rows of the corpus.

    Returns:
      The searcher; its `plan` says what was chosen, and the recall that was measured.

    Raises:
      UserError: there are no rows, numbers are NaN or huge, or ScaNN is not installed.
    """
    require(len(embeddings) > 0, "there are no embeddings to search; give at least one row.")
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    require_usable(embeddings, "embeddings")
    if len(embeddings) < spec.exact_below:
        return ScannSearcher(embeddings, Plan())
    leaves = spec.leaves_of(len(embeddings))
    native = train(embeddings, leaves, spec.threshold)
    if queries is None:
        chosen = np.random.default_rng(0).permutation(len(embeddings))[:SAMPLE]
        queries = embeddings[np.sort(chosen)]
    queries = np.ascontiguousarray(queries, np.float32)
    require_usable(queries, "queries")
    tenth = tenth_best(embeddings, queries)
    plan, short = Plan(), []
    for searched, reorder in _plans(spec, leaves, len(embeddings)):
        if any(searched <= other[0] and reorder <= other[1] for other in short):
            continue  # it can't find more
        plan = Plan(leaves, searched, reorder, spec.threshold)
        recalls = measured_recall(ScannSearcher(embeddings, plan, native), queries, tenth)
        plan = dataclasses.replace(plan, recall=float(recalls.mean()))
        if recalls.mean() - recalls.std() / math.sqrt(len(recalls)) >= spec.recall:
            break
        short.append((searched, reorder))
    if plan.recall < spec.recall:
        _log.warning(
            "retriever.index: recall@%d is %.3f, below %s, with the %d leaves to search and the reorder "
            "of %d that are set; set them to 0 to have them chosen.",
            *(DEPTH, plan.recall, spec.recall, plan.leaves_to_search, plan.reorder),
        )
    return ScannSearcher(embeddings, plan, native)


def _plans(spec: Scann, leaves: int, rows: int) -> list[tuple[int, int]]:
    """(leaves to search, reorder) in the order of their cost; the last searches all that may vary."""
    searched = [spec.leaves_to_search] if spec.leaves_to_search else _grid(leaves / 256, leaves)
    fewest, many = min(30, rows), min(480, rows)
    reorder = [spec.reorder] if spec.reorder else _grid(fewest, many)
    plans = {(leaf, row) for leaf in searched for row in reorder}
    if not spec.reorder:
        plans |= {(searched[-1], row) for row in _grid(many, rows)}
    return sorted(plans, key=lambda plan: (plan[0] * rows / leaves + ROW_COST * plan[1], plan))


def _grid(first: float | int, last: int) -> list[int]:
    """Whole numbers from `first` to `last`, each about the square root of 2 times the one before."""
    steps = math.ceil(2 * math.log2(last / first))
    return sorted({min(last, math.ceil(first * 2 ** (step / 2))) for step in range(steps + 1)})


# Inside a compiled program


def fingerprint(embeddings: Float[Array, "N D"]) -> UInt32[Array, "2"]:
    """[2] a hash of the numbers and their places, the same on any device; traceable.

    Each number's bits are mixed with its place by MurmurHash3's finaliser, and the results summed
    modulo 2^32, twice with other constants.
    """

    def mix(bits):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(factor)
        return bits ^ (bits >> jnp.uint32(16))

    rows, width = (jnp.arange(size, dtype=jnp.uint32) for size in embeddings.shape)
    bits = jax.lax.bitcast_convert_type(embeddings, jnp.uint32)

    def hashed(seed):
        place = mix(rows + jnp.uint32(seed))[:, None] + width * jnp.uint32(0x9E3779B1)
        return jnp.sum(mix(bits ^ mix(place)), dtype=jnp.uint32)

    return jnp.stack([hashed(0x2545F491), hashed(0x9E3779B9)])


def _search_on_host(spec: Scann, k: int) -> Callable[..., tuple[Array, Array]]:
    """(index, query [...,D]) -> rows [...,k], scores [...,k], for `Scann.search`.

    Few queries are searched on the device instead: one is cheaper to compare with every passage than a
    searcher to build. How many there are is counted after queries side by side have become one batch.

    Both callbacks are pure functions of their arguments, whatever is kept: it doesn't matter that XLA
    may drop or repeat them.
    """

    @jax.custom_batching.custom_vmap
    def search(index, query):
        if math.prod(query.shape[:-1]) < FEW:
            topk = best_in_blocks(index["embeddings"], query, k)
            return topk.ids, topk.scores
        shape = (*query.shape[:-1], k)
        hits = (jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.float32))
        embeddings, key = index["embeddings"], index["key"]
        known, *found = jax.pure_callback(
            partial(_ask, spec, k, embeddings.shape),
            (jax.ShapeDtypeStruct((), jnp.bool_), *hits),
            *(key, query),
        )
        # Only the branch that is taken sends its operands to the host.
        return jax.lax.cond(
            known,
            lambda: tuple(found),
            lambda: jax.pure_callback(
                partial(_build_and_ask, spec, k), hits, key, embeddings, query
            ),
        )

    @search.def_vmap
    def of_several(size, batched, index, query):
        """Queries side by side are one batch; indexes (of several seeds) are searched in turn."""
        index_batched, query_batched = batched
        if not any(jax.tree.leaves(index_batched)):
            return search(index, query), (True, True)

        def one(place):
            def at(leaf, is_batched):
                return leaf[place] if is_batched else leaf

            return search(jax.tree.map(at, index, index_batched), at(query, query_batched))

        return jax.lax.map(one, jnp.arange(size)), (True, True)

    return search


def _ask(spec: Scann, k: int, shape: tuple[int, ...], key: Any, query: Any) -> tuple[Any, ...]:
    """-> whether the searcher is kept, and its rows and scores."""
    name = (spec, shape, np.asarray(key).tobytes())
    with _lock:
        building = _kept.get(name)
        known = building is not None and building.done()
        if known:
            _kept.move_to_end(name)
    searcher = building.result() if building is not None and known else None
    return np.bool_(known), *_hits(searcher, np.asarray(query), k)


def _build_and_ask(spec: Scann, k: int, key: Any, embeddings: Any, query: Any) -> tuple[Any, Any]:
    """-> rows and scores of a searcher that is built, unless it is there by now."""
    return _hits(_searcher_of(spec, key, embeddings), np.asarray(query), k)


def _searcher_of(spec: Scann, key: Any, embeddings: Any) -> ScannSearcher | None:
    """The searcher of an index; kept, waited for if another thread builds it, or else built.

    None of embeddings that ScaNN can't compute with.
    """
    name = (spec, embeddings.shape, np.asarray(key).tobytes())
    with _lock:
        building = _kept.get(name)
        if building is None:
            _make_room(name)
            own = _kept[name] = Future()
    if building is not None:
        return building.result()
    try:
        # Copied: the device's array may be gone, or be overwritten, after this call.
        rows = np.array(embeddings, np.float32)
        own.set_result(build_searcher(rows, spec) if usable(rows).all() else None)
    except BaseException as error:
        with _lock:
            if _kept.get(name) is own:
                del _kept[name]
        own.set_exception(error)  # for those that wait; the next one tries again
    return own.result()


def _make_room(coming: Name) -> None:
    """Drops the searchers that were asked longest ago; says so if a dropped one comes again."""

    def size(name: Name) -> int:
        return 4 * math.prod(name[1])

    while len(_kept) >= KEPT and sum(map(size, [*_kept, coming])) > KEPT_BYTES:
        _dropped.append(_kept.popitem(last=False)[0])
    if coming in _dropped:
        _log.warning(
            "retriever.index: a ScaNN index of %d passages is built again, since more are in use than "
            "are kept (%d, or %d MiB of embeddings); train fewer seeds at once.",
            *(coming[1][0], KEPT, KEPT_BYTES >> 20),
        )
        _dropped.clear()


def _hits(searcher: ScannSearcher | None, query: np.ndarray, k: int) -> tuple[Any, Any]:
    """Rows [...,k] and scores [...,k]; of no searcher, and of a query that holds NaN, misses."""
    batch = query.shape[:-1]
    ids, scores = np.full((*batch, k), -1, np.int32), np.full((*batch, k), -np.inf, np.float32)
    good = usable(query).all(axis=-1)
    if searcher is not None and good.any():
        found = searcher.search(query[good], k)
        ids[good], scores[good] = found.ids, found.scores
    return ids, scores
