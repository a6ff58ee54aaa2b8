"""The devices that work is spread over."""

import jax
import numpy as np
from jax.sharding import Mesh

from ragjax.errors import require


def data_mesh(devices: int = 0) -> Mesh:
    """A mesh of one axis, "data".

    Args:
      devices: how many of this process's devices; 0 for all.

    Raises:
      UserError: there are fewer.
    """
    there = jax.local_devices()
    require(
        0 <= devices <= len(there),
        f"{devices} devices are asked for, but JAX has {len(there)} here; choose at most that many, or "
        "0 for all.",
    )
    return Mesh(np.array(there[: devices or len(there)]), ("data",))
