"""Exact search of many passages block by block, on one device or on all of a mesh.

Of each `GROUP` neighbouring rows only the highest score is kept. The k best passages lie in the k groups
of highest maxima, whose rows are then scored once more.

On a CPU passages pass in blocks of `BLOCK`, and the matrix of all scores is never there as a whole.
Blocks have one size whatever the number of devices, so that a product of the same shape gives each
score: one device and many agree to the bit. An accelerator, which a product of a block would not fill,
scores all its rows at once, for so many queries that there are at most `SCORES` scores; one and many
accelerators agree to rounding.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from ragjax.ops.scoring import FULL_PRECISION
from ragjax.retrieval.base import best, require_depth
from ragjax.types import Leaf, TopK

BLOCK = 4096  # rows of a block
GROUP = 32  # rows whose highest score is kept; divides BLOCK
QUERIES = 256  # queries that are searched at once, at most
GATHERED = 2**26  # numbers of the rows that are scored again, at most
SCORES = 2**28  # scores that an accelerator makes at once, at most, of more than one query
NARROW = 4096  # maxima of which the highest are taken without a second look


def best_in_blocks(
    embeddings: Float[Array, "N D"],
    query: Float[Array, "*batch D"],
    k: int,
    *,
    block: int | None = None,
) -> TopK:
    """The k passages of highest inner product, best first, ties by the lower row; traceable.

    Args:
      embeddings: [N,D], of any floating type; multiplied in the type of the query.
      query: [...,D].
      k: static.
      block: rows of a block, a multiple of `GROUP`; `BLOCK` if None.

    Returns:
      `TopK` of [...,k], without gradient.

    Raises:
      UserError: k exceeds N.
    """
    count, block = embeddings.shape[0], block or BLOCK
    require_depth(k, count)
    embeddings, query = jax.lax.stop_gradient((embeddings, query))
    if count <= block:
        return best(_all_scores(embeddings, query), k)

    def score(queries: Array, groups: Array) -> TopK:
        rows = _rows(groups)
        scores = _scores(embeddings, queries, jnp.where(rows < count, rows, -1))
        return _best_of(scores, rows, k)

    def search(queries: Array) -> TopK:
        _, groups = _best_of_many(_maxima(embeddings, count, queries, block), k)
        return _in_chunks(score, _scored_at_once(groups, queries), queries, groups)

    return _over_batch(search, query, count)


def _in_one_product() -> bool:
    """Whether all rows of a device are scored at once."""
    return jax.default_backend() != "cpu"


def _all_scores(embeddings: Float[Array, "N D"], query: Float[Array, "*batch D"]) -> Array:
    """[...,N] the scores of a single block, which need no second look."""
    return jnp.matmul(query, embeddings.astype(query.dtype).T, precision=FULL_PRECISION)


def _maxima(
    embeddings: Float[Array, "n D"], count: Any, query: Float[Array, "q D"], block: int
) -> Float[Array, "q G"]:
    """The highest score of each group of rows; -inf where all are rows from `count` on, no passages."""
    total = embeddings.shape[0]

    def of_rows(first: Any, rows: Array) -> Array:
        scores = _all_scores(rows, query)
        scores = jnp.where(first + jnp.arange(len(rows)) < count, scores, -jnp.inf)
        return _group_maxima(scores)

    def of_block(number: Any, rows: Array) -> Array:
        if len(query) == 1:
            return of_rows(number * block, rows)
        # A block of rows by a few queries is the faster product.
        scores = jnp.matmul(rows.astype(query.dtype), query.T, precision=FULL_PRECISION)
        passages = number * block + jnp.arange(block) < count
        scores = jnp.where(passages[:, None], scores, -jnp.inf)
        return jnp.max(scores.reshape(block // GROUP, GROUP, -1), axis=1).T

    def of_whole_block(_, number):
        rows = jax.lax.dynamic_slice_in_dim(embeddings, number * block, block)
        return None, of_block(number, rows)

    if _in_one_product():
        return of_rows(0, embeddings)
    whole = total // block
    _, maxima = jax.lax.scan(of_whole_block, None, jnp.arange(whole))
    maxima = jnp.moveaxis(maxima, 0, 1).reshape(query.shape[0], -1)
    if total % block:
        rest = jnp.pad(embeddings[whole * block :], ((0, -total % block), (0, 0)))
        maxima = jnp.concatenate([maxima, of_block(whole, rest)], axis=-1)
    return maxima


def _group_maxima(values: Float[Array, "q n"]) -> Float[Array, "q G"]:
    """The highest of each `GROUP` neighbours."""
    values = jnp.pad(values, ((0, 0), (0, -values.shape[-1] % GROUP)), constant_values=-jnp.inf)
    return jnp.max(values.reshape(len(values), -1, GROUP), axis=-1)


def _best_of_many(values: Float[Array, "q n"], k: int) -> tuple[Array, Array]:
    """The k highest of n values, or all if there are fewer, best first, and their places [q,k].

    Ties go to the lower place. Of many values those in the k groups of highest maxima are looked at.
    """
    count = values.shape[-1]
    if count <= NARROW:
        best_values, places = jax.lax.top_k(values, min(k, count))
        return best_values, places
    _, groups = _best_of_many(_group_maxima(values), k)
    places = _rows(groups)
    near = jnp.take_along_axis(values, jnp.minimum(places, count - 1), axis=-1)
    near, chosen = jax.lax.top_k(jnp.where(places < count, near, -jnp.inf), min(k, count))
    return near, jnp.take_along_axis(places, chosen, axis=-1)


def _rows(groups: Int[Array, "q g"]) -> Int[Array, "q r"]:
    """The rows of groups, in order, so that the lower row of a tie comes first."""
    first = jnp.sort(groups, axis=-1) * GROUP
    return (first[..., None] + jnp.arange(GROUP)).reshape(groups.shape[0], -1)


def _scores(
    embeddings: Float[Array, "n D"], query: Float[Array, "q D"], rows: Int[Array, "q r"]
) -> Float[Array, "q r"]:
    """The inner products with some rows; -inf for row -1."""
    found = embeddings[jnp.maximum(rows, 0)].astype(query.dtype)
    scores = jnp.einsum("qd,qrd->qr", query, found, precision=FULL_PRECISION)
    return jnp.where(rows >= 0, scores, -jnp.inf)


def _best_of(scores: Float[Array, "q r"], rows: Int[Array, "q r"], k: int) -> TopK:
    """The k best of some rows, which are in order."""
    topk = best(scores, k)
    ids = jnp.take_along_axis(rows, jnp.maximum(topk.ids, 0), axis=-1)
    return TopK(jnp.where(topk.valid, ids, -1), topk.scores, topk.valid)


def _scored_at_once(groups: Int[Array, "q g"], query: Float[Array, "q D"]) -> int:
    """How many queries' groups are scored again at once, to bound the memory that their rows take."""
    return max(1, GATHERED // (groups.shape[-1] * GROUP * query.shape[-1]))


def _in_chunks(work: Any, size: int, *arrays: Array) -> Any:
    """`work` on up to `size` of the q rows of arrays at a time."""
    count = len(arrays[0])
    size = min(size, count)
    chunks = [
        jnp.pad(of, ((0, -count % size), *[(0, 0)] * (of.ndim - 1))).reshape(
            -1, size, *of.shape[1:]
        )
        for of in arrays
    ]
    done = jax.lax.map(lambda parts: work(*parts), chunks)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], done)


def _over_batch(search: Any, query: Float[Array, "*batch D"], rows: int) -> TopK:
    """Searches queries of any axes among the rows of a device, `QUERIES` at a time or fewer."""
    size = min(QUERIES, max(1, SCORES // rows)) if _in_one_product() else QUERIES
    found = _in_chunks(search, size, query.reshape(-1, query.shape[-1]))
    return jax.tree.map(lambda leaf: leaf.reshape(*query.shape[:-1], leaf.shape[-1]), found)


@struct.dataclass
class ShardedRows:
    """Embeddings, or tokens, whose rows are dealt out to the devices of a mesh, whole blocks to each.

    Attributes:
      rows: [n,D], n >= N; the last are no passages.
      count: N.
      mesh: the devices, on an axis "data".
    """

    rows: Leaf
    count: int = struct.field(pytree_node=False)
    mesh: Mesh = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.count, self.rows.shape[1]


def all_rows(rows: Any) -> Array:
    """[N,D], as one array, of what may be `ShardedRows`; traceable."""
    return rows.rows[: rows.count] if isinstance(rows, ShardedRows) else rows


def are_sharded(count: int, mesh: Mesh | None) -> bool:
    """Whether N rows are dealt out on a mesh; few are on each of its devices."""
    return mesh is not None and count > BLOCK


def rows_of_each(count: int, mesh: Mesh, block: int | None = None) -> int:
    """Rows that each device holds of N, as many as any other: whole blocks, the last of them empty."""
    block = block or BLOCK
    return -(-count // (block * mesh.size)) * block


def shard_rows(embeddings: Any, mesh: Mesh, *, block: int | None = None) -> ShardedRows:
    """Deals the rows of a host array [N,D] out to the devices of a mesh, each its own part only."""
    count, width = embeddings.shape
    rows = rows_of_each(count, mesh, block)
    sharding = NamedSharding(mesh, P("data"))

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(rows * mesh.size)
        own = np.asarray(embeddings[start : min(stop, count)])
        return np.pad(own, ((0, stop - start - len(own)), (0, 0)))

    shape = (rows * mesh.size, width)
    return ShardedRows(jax.make_array_from_callback(shape, sharding, part), count, mesh)


def best_in_shards(
    index: ShardedRows, query: Float[Array, "*batch D"], k: int, *, block: int | None = None
) -> TopK:
    """As `best_in_blocks`, over the devices of a mesh, of which each searches its own rows; traceable.

    Devices exchange the maxima of their k best groups, [q,k] each, and the scores of the k best groups
    of all, [q,k*GROUP]; no embedding leaves its device. Queries are on every device.

    Raises:
      UserError: k exceeds N.
    """
    require_depth(k, index.count)
    block, each = block or BLOCK, index.rows.shape[0] // index.mesh.size

    def score(own: Array, queries: Array, groups: Array) -> TopK:
        first, rows = jax.lax.axis_index("data") * each, _rows(groups)
        mine = (rows >= first) & (rows < first + each) & (rows < index.count)
        scores = _scores(own, queries, jnp.where(mine, rows - first, -1))
        return _best_of(jax.lax.pmax(scores, "data"), rows, k)

    def search(own: Array, queries: Array) -> TopK:
        first = jax.lax.axis_index("data") * each
        values, places = _best_of_many(_maxima(own, index.count - first, queries, block), k)
        # Devices one after another are in the order of their rows, as ties have to be.
        values, groups = (
            jnp.moveaxis(jax.lax.all_gather(of_each, "data"), 0, 1).reshape(len(queries), -1)
            for of_each in (values, places + first // GROUP)
        )
        _, places = jax.lax.top_k(values, min(k, values.shape[-1]))
        groups = jnp.take_along_axis(groups, places, axis=-1)
        return _in_chunks(partial(score, own), _scored_at_once(groups, queries), queries, groups)

    def on_every_device(own: Array, queries: Array) -> TopK:
        if index.count <= block:  # the first device has them all
            scores = _all_scores(own[: index.count], queries)
            first = jax.lax.axis_index("data") == 0
            return best(jax.lax.pmax(jnp.where(first, scores, -jnp.inf), "data"), k)
        return _over_batch(partial(search, own), queries, each)

    everywhere = jax.shard_map(
        on_every_device,
        mesh=index.mesh,
        in_specs=(P("data"), P()),
        out_specs=P(),
        check_vma=False,  # it can't tell that the result of the exchange is the same everywhere
    )
    return everywhere(index.rows, jax.lax.stop_gradient(query))
