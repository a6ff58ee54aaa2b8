"""ScaNN on the host: trained, searched, saved and loaded. NumPy in, NumPy out."""

import contextlib
import ctypes
import dataclasses
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ragjax.errors import UserError, require
from ragjax.manifests import MANIFEST, new_directory, read_manifest, write_manifest
from ragjax.precision import single_precision
from ragjax.retrieval.base import require_depth
from ragjax.retrieval.blocks import best_in_blocks
from ragjax.types import TopK

DEPTH = 10  # the k at which recall is measured
TRAINED_ON = 100_000  # rows, drawn by ScaNN, that partitions and codes are trained on
DIMENSIONS_PER_CODE = 2
LARGEST = 1e15  # of a number: ScaNN ends the whole process where squared distances overflow
AT_ONCE = 1 << 24  # numbers that are in memory at once

KIND, ROWS, ASSETS = "ScaNN index", "dataset.npy", "scann_assets.pbtxt"
REBUILD = "build the index again."
ERROR = 2  # absl::LogSeverityAtLeast::kError
LOG_FUNCTIONS = (
    "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE",
    "_ZN4absl12lts_2025012718SetStderrThresholdENS0_18LogSeverityAtLeastE",
)


def import_scann() -> Any:
    """Imports ScaNN, which needs no TensorFlow, but imports it where it is installed.

    ScaNN writes progress to the standard error of the process. It is told to write errors only, by the
    functions of its own log; a version that lacks them stays talkative.

    Raises:
      UserError: it is not installed.
    """
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise UserError(
            f"retriever.index is Scann, but scann can't be imported ({error}); it has wheels for Linux "
            "x86_64 and Python 3.9 to 3.13, so install it there (pip install scann) or choose "
            "retriever.index Exact."
        ) from error
    library = ctypes.CDLL(scann_ops_pybind.scann_pybind.__file__)
    for name in LOG_FUNCTIONS:
        with contextlib.suppress(AttributeError):
            library[name](ERROR)
    return scann_ops_pybind


@dataclass(frozen=True)
class Plan:
    """How a corpus is searched.

    Attributes:
      leaves: partitions; 0 where every row is scored exactly.
      leaves_to_search: those that are searched for a query.
      reorder: rows of the best codes that are scored exactly when 10 are wanted, and in proportion
        when more are.
      threshold: of the anisotropic codes.
      recall: measured recall@10, see `measured_recall`; 1 where every row is scored.
    """

    leaves: int = 0
    leaves_to_search: int = 0
    reorder: int = 0
    threshold: float = 0.0
    recall: float = 1.0


@dataclass(frozen=True, eq=False)
class ScannSearcher:
    """An index of N rows that finds those of highest inner product with a query.

    Attributes:
      embeddings: [N,D] float32 rows; scores come from them.
      plan: how they are searched.
      native: ScaNN's searcher; None where every row is scored.
    """

    embeddings: np.ndarray
    plan: Plan
    native: Any = None

    def search(self, queries: Float[np.ndarray, "M D"], k: int) -> TopK:
        """Finds the k best rows of each query, with several threads.

        Args:
          queries: [M,D].
          k: rows wanted.

        Returns:
          NumPy `TopK` of [M,k], best first, ties by the lower row. Scores are float32 inner products
          with the rows themselves, whatever ScaNN estimated. Where the partitions that are searched
          hold fewer than k rows, the rest are misses: row -1, score -inf.

        Raises:
          UserError: the width differs, k exceeds N, or a query holds NaN or a huge number.
        """
        rows, width = self.embeddings.shape
        require_depth(k, rows)
        require(
            queries.shape[1] == width,
            f"queries have {queries.shape[1]} numbers, but the index has rows of {width}; embed both "
            "with the same encoder.",
        )
        queries = np.ascontiguousarray(queries, np.float32)
        require_usable(queries, "queries")
        if self.native is None:
            return _exactly(self.embeddings, queries, k)
        parts = max(1, math.ceil(len(queries) * max(k * width, 1) / AT_ONCE))
        found = [self._search(part, k) for part in np.array_split(queries, parts)]
        ids, scores = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return TopK(ids, scores, ids >= 0)

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """-> rows [m,k] and scores [m,k]."""
        if not len(queries):
            return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
        reorder = min(
            max(self.plan.reorder * k // DEPTH, self.plan.reorder, k), len(self.embeddings)
        )
        found, distances = self.native.search_batched_parallel(
            queries, k, reorder, self.plan.leaves_to_search
        )
        # Where fewer are found, ScaNN fills up with row 0 at distance NaN.
        ids = np.where(np.isnan(distances), -1, found.astype(np.int64)).astype(np.int32)
        rows = np.take(self.embeddings, ids, axis=0, mode="clip")  # of a miss, any
        rescored = np.einsum("md,mkd->mk", queries, rows)
        scores = np.where(ids >= 0, rescored, -np.inf).astype(np.float32)
        # ScaNN sorts by its own sums, so that few queries have hits that tie or are out of order.
        wrong = np.any(scores[:, 1:] >= scores[:, :-1], axis=1)
        order = np.lexsort((ids[wrong], -scores[wrong]), axis=-1)
        for found in (ids, scores):
            found[wrong] = np.take_along_axis(found[wrong], order, -1)
        return ids, scores

    def save(self, directory: Path | str) -> None:
        """Writes the index into a new directory, whole or not at all.

        There is ScaNN's data, the rows, and a manifest with the plan and every file's SHA-256. No file
        is a pickle: ScaNN pickles document names, and is given none.

        Raises:
          UserError: the directory exists, or can't be written.
        """
        directory = Path(directory)
        facts = {
            "scann": None if self.native is None else version("scann"),
            "shape": list(self.embeddings.shape),
            "plan": dataclasses.asdict(self.plan),
        }
        try:
            with new_directory(directory) as making:
                if self.native is None:
                    np.save(making / ROWS, self.embeddings, allow_pickle=False)
                else:
                    self.native.serialize(str(making), relative_path=True)
                write_manifest(making, KIND, facts, sorted(path.name for path in making.iterdir()))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{directory} can't be written ({error}); free space or choose another directory."
            ) from error


@single_precision
def _exactly(embeddings: np.ndarray, queries: np.ndarray, k: int) -> TopK:
    """NumPy `TopK` of [M,k] by the scores of every row."""
    return jax.device_get(_best(jnp.asarray(embeddings), jnp.asarray(queries), k))


_best = jax.jit(best_in_blocks, static_argnums=2)


def train(embeddings: np.ndarray, leaves: int, threshold: float) -> Any:
    """Trains partitions and codes; returns ScaNN's searcher.

    The same rows give the same one, to the bit, on any number of threads: partitions begin with
    k-means++, whose seed is fixed, and not with ScaNN's default of random rows, whose seed is none.
    Another kind of processor may round otherwise.

    Args:
      embeddings: [N,D] float32, finite.
      leaves: partitions.
      threshold: of the anisotropic codes.
    """
    builder = import_scann().builder(embeddings, DEPTH, "dot_product")
    # Leaves to search and rows to reorder are given with each search.
    builder.tree(leaves, leaves, training_sample_size=TRAINED_ON, random_init=False)
    builder.score_ah(
        DIMENSIONS_PER_CODE,
        anisotropic_quantization_threshold=threshold,
        training_sample_size=TRAINED_ON,
    )
    return builder.reorder(DEPTH).build()


def load(directory: Path | str, embeddings: np.ndarray | None = None) -> ScannSearcher:
    """Reads what `ScannSearcher.save` wrote; its rows are read by memory map.

    Args:
      directory: the index.
      embeddings: [N,D] rows that it has to be of, and that scores come from; None for its own.

    Raises:
      UserError: a file is missing, cut, or not the one that was written, the index is of other rows, or
        another version of ScaNN trained it.
    """
    directory = Path(directory)
    facts = read_manifest(directory, KIND, REBUILD, verify=True)
    plan, (rows, width) = Plan(**facts["plan"]), facts["shape"]
    try:
        stored = np.load(directory / ROWS, mmap_mode="r", allow_pickle=False)
        native = _load_native(directory, facts["scann"]) if plan.leaves else None
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{directory} can't be loaded ({error}); {REBUILD}") from error
    require(
        stored.shape == (rows, width) and stored.dtype == np.float32,
        f"{directory / ROWS} holds other rows than {MANIFEST} says; {REBUILD}",
    )
    if embeddings is not None:
        require(
            embeddings.shape == stored.shape,
            f"{directory} is an index of {rows} rows of {width} numbers, but there are "
            f"{' x '.join(map(str, embeddings.shape))}; {REBUILD}",
        )
        require(
            np.array_equal(embeddings, stored),
            f"{directory} is an index of other embeddings than those given; {REBUILD}",
        )
    return ScannSearcher(stored if embeddings is None else embeddings, plan, native)


def _load_native(directory: Path, trained_by: str) -> Any:
    """ScaNN's searcher; its own loader is passed by, since it would read a pickle that lay there."""
    scann = import_scann()
    require(
        trained_by == version("scann"),
        f"{directory} was written by scann {trained_by}, but {version('scann')} is installed; {REBUILD}",
    )
    assets = (directory / ASSETS).read_text()
    return scann.ScannSearcher(scann.scann_pybind.ScannNumpy(str(directory), assets))


def usable(numbers: Float[np.ndarray, "*any"]) -> np.ndarray:
    """Which numbers ScaNN can compute with: finite ones of at most 1e15."""
    return np.abs(numbers) <= LARGEST


def require_usable(numbers: Float[np.ndarray, "M D"], what: str) -> None:
    """Checks that all can be computed with.

    Raises:
      UserError: one is NaN or huge.
    """
    bad = np.flatnonzero(~usable(numbers).all(axis=1))
    require(
        len(bad) == 0,
        f"{what} hold NaN or a number beyond {LARGEST:g} in {len(bad)} of {len(numbers)} rows, first in "
        f"row {bad[0] if len(bad) else 0}; check the encoder that made them.",
    )


def tenth_best(
    embeddings: Float[np.ndarray, "N D"], queries: Float[np.ndarray, "M D"]
) -> Float[np.ndarray, "M"]:
    """[M] the exact score of the tenth best row of each query.

    By NumPy: an index may be built inside of a callback, where JAX must not compute.
    """
    place = len(embeddings) - DEPTH
    parts = np.array_split(queries, math.ceil(len(queries) * len(embeddings) / AT_ONCE))
    return np.concatenate(
        [np.partition(part @ embeddings.T, place, axis=1)[:, place] for part in parts]
    )


def measured_recall(
    searcher: ScannSearcher, queries: Float[np.ndarray, "M D"], tenth: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """[M] recall@10 of each query: the share of ten hits that score as high as the tenth best row.

    So a row that ties with the tenth best counts as it. Scores of two computations differ by rounding,
    for which one part in 100,000 of the largest score is allowed.

    Args:
      searcher: searched.
      queries: [M,D].
      tenth: [M] from `tenth_best`.
    """
    scores = searcher.search(queries, DEPTH).scores
    largest = np.maximum(np.abs(tenth), np.where(scores[:, 0] > -np.inf, np.abs(scores[:, 0]), 0))
    slack = np.float32(1e-5) * largest
    return np.mean(scores >= (tenth - slack)[:, None], axis=1)
