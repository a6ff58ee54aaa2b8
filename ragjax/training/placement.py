"""Where the arrays of a run lie on a mesh of devices.

    batch, environments      dealt out by rows
    passages, their index    dealt out by rows where they are many; few, or a policy's, on every device
    parameters, moments      on every device; or large ones dealt out along an axis (`DeviceMesh`)
    everything else          on every device

The functions of a learner know nothing of it: XLA derives from where arrays lie what each device
computes and what devices exchange.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ragjax.mesh import DeviceMesh
from ragjax.retrieval.blocks import ShardedRows, are_sharded, shard_rows
from ragjax.training.learner import Learner, State

LARGE = 2**12  # numbers of an array of parameters from which on it is dealt out


class Placement:
    """The places of one learner's arrays on a mesh.

    A state outside of it is plain: whole arrays, as a run without a mesh has them and as checkpoints
    hold them, whatever the number of devices.
    """

    def __init__(self, spec: DeviceMesh, mesh: Mesh, learner: Learner):
        """Of a learner on a mesh.

        Args:
          spec: how parameters lie.
          mesh: the devices.
          learner: what is trained.
        """
        self.mesh, self._learner = mesh, learner
        self._everywhere = NamedSharding(mesh, jax.P())
        self._by_rows = NamedSharding(mesh, jax.P("data"))
        self._deal_out = spec.parameters == "sharded"
        self.shardings = self._state_shardings()
        # What is donated must be the runtime's own: a placed array may share memory with the host's.
        self._own = jax.jit(
            lambda state: jax.tree.map(jnp.copy, state), out_shardings=self.shardings
        )

    def _parameter(self, leaf: Any) -> NamedSharding:
        """Of an array of parameters or moments: along the longest axis that the devices divide."""
        axes = [axis for axis, size in enumerate(leaf.shape) if size % self.mesh.size == 0]
        if not self._deal_out or leaf.size < LARGE or not axes:
            return self._everywhere
        axis = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self.mesh, jax.P(*[None] * axis, "data"))

    def _environment(self, leaf: Any) -> NamedSharding:
        """Of what environments carry on: along the environments."""
        rows = self._learner.environments
        return self._by_rows if leaf.shape[:1] == (rows,) else self._everywhere

    def _state_shardings(self) -> State:
        shapes = self._learner.state_shapes()
        everywhere = jax.tree.map(lambda _: self._everywhere, shapes)
        placed = {
            name: jax.tree.map(self._parameter, getattr(shapes, name))
            for name in ("params", "opt_state", "extra", "frozen")
            if getattr(shapes, name) is not None
        }
        placed["carry"] = jax.tree.map(self._environment, shapes.carry)
        if self._sharded(shapes):
            count = shapes.index.embeddings.shape[0]
            rows = ShardedRows(self._by_rows, count, self.mesh)
            placed["index"] = everywhere.index.replace(embeddings=rows)
        return everywhere.replace(**placed)

    def _sharded(self, state: State) -> bool:
        """Whether the index of a plain state, or of its shapes, is dealt out."""
        embeddings: Any = getattr(state.index, "embeddings", None)
        # A tree of other arrays is of an index that no mesh searches.
        plain = not hasattr(embeddings, "shape") or self._learner.environments > 0
        return not plain and are_sharded(embeddings.shape[0], self.mesh)

    def place(self, state: State) -> State:
        """A plain state on the devices of the mesh, in memory of its own."""
        if self._sharded(state):
            rows = shard_rows(np.asarray(state.index.embeddings), self.mesh)
            state = state.replace(index=state.index.replace(embeddings=rows))
        return self._own(jax.tree.map(self._put, state, self.shardings))

    def gather(self, state: State) -> State:
        """The inverse of `place`, in this host's memory; every host has to call it."""
        index = state.index
        if isinstance(getattr(index, "embeddings", None), ShardedRows):
            rows = index.embeddings
            state = state.replace(index=index.replace(embeddings=rows.rows))
            plain = jax.tree.map(_whole, state)
            embeddings = plain.index.embeddings[: rows.count]
            return plain.replace(index=plain.index.replace(embeddings=embeddings))
        return jax.tree.map(_whole, state)

    def data(self, data: Any) -> Any:
        """The arrays of `Learner.data` on the devices."""
        if (
            isinstance(data, dict)
            and "corpus" in data
            and are_sharded(len(data["corpus"]), self.mesh)
        ):
            rest = {name: self.data(part) for name, part in data.items() if name != "corpus"}
            return rest | {"corpus": shard_rows(np.asarray(data["corpus"]), self.mesh)}
        return jax.tree.map(lambda leaf: self._put(leaf, self._everywhere), data)

    def feed(self, fed: Any) -> Any:
        """What the host gives a step, dealt out by rows."""
        return jax.tree.map(lambda leaf: self._put(leaf, self._by_rows), fed)

    def _put(self, leaf: Any, sharding: NamedSharding) -> Any:
        """An array in its place, of which this host gives its own devices' parts."""
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def spread(self, rows: Any) -> Any:
        """A part of a batch, within a step, dealt out by rows again; traceable.

        Left to itself XLA computes a micro-batch, or a shuffled minibatch, on every device alike.
        """

        def dealt(leaf: Any) -> Any:
            divided = leaf.ndim > 0 and leaf.shape[0] % self.mesh.size == 0
            return jax.lax.with_sharding_constraint(leaf, self._by_rows) if divided else leaf

        return jax.tree.map(dealt, rows)

    def jit(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The compiled step: the state stays where it lies, metrics are on every device."""
        return jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, self._everywhere))


def _whole(leaf: Any) -> np.ndarray:
    """An array as a whole, in this host's memory."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.array(leaf)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(leaf, tiled=True))
