"""The devices that work is spread over."""

import os
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from ragjax.errors import require

# Devices simulated on a CPU share its threads, and exchanges that run at once can use them up.
IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


@dataclass(frozen=True)
class DeviceMesh:
    """How a run is spread over devices: each has a part of every batch, or of the environments.

    The passages and their index are dealt out to the devices by rows where they are many. A run may be
    continued on another mesh; losses then agree to rounding.

    Attributes:
      devices: that train together, those of all hosts counted; 0 for all there are.
      parameters: "replicated", each device has all of them; or "sharded", each has a part of every large
        array of parameters and of the optimiser's moments, and gets the others when it needs them
        (fully sharded data parallelism, Zhao et al. 2023).
    """

    devices: int = 1
    parameters: Literal["replicated", "sharded"] = "replicated"

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.devices >= 0,
            f"mesh.devices is {self.devices}; give a number of devices, or 0 for all.",
        )
        require(
            self.parameters in ("replicated", "sharded"),
            f"mesh.parameters is {self.parameters!r}; choose replicated or sharded.",
        )

    @property
    def spreads(self) -> bool:
        """Whether there may be more than one device."""
        return self.devices != 1

    def build(self) -> Mesh | None:
        """The devices, on an axis "data"; None for a single one.

        Raises:
          UserError: there are fewer, or a host would have none.
        """
        there, hosts = jax.devices(), jax.process_count()
        count = self.devices or len(there)
        require(
            count <= len(there),
            f"mesh.devices is {self.devices}, but JAX has {len(there)} here; choose at most that many, "
            "or 0 for all.",
        )
        require(
            hosts == 1 or count == len(there),
            f"mesh.devices is {self.devices}, but the {hosts} hosts have {len(there)} together and each "
            "has to take part; set it to 0 for all.",
        )
        return None if count == 1 else Mesh(np.array(there[:count]), ("data",))


def mesh_notes(mesh: Mesh | None) -> list[str]:
    """What a user should know of the devices that a run uses, and of those that it does not."""
    there, used, notes = jax.device_count(), 1 if mesh is None else mesh.size, []
    if used != there:
        notes.append(f"{used} of {there} devices used; mesh.devices says how many")
    flags = os.environ.get("XLA_FLAGS", "")
    if mesh is not None and jax.default_backend() == "cpu" and IN_ORDER not in flags:
        notes.append(
            f"devices of a CPU may wait for each other forever unless XLA_FLAGS has {IN_ORDER}"
        )
    return notes


def require_divided(name: str, value: int, mesh: Mesh) -> None:
    """Checks that the devices of a mesh divide a number of rows.

    Raises:
      UserError: names the field.
    """
    require(
        value % mesh.size == 0,
        f"{name} is {value}, which the {mesh.size} devices of the mesh do not divide; choose a multiple "
        "of it, or other mesh.devices.",
    )


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
