"""Parameters of a Flax module from a checkpoint's tensors, and back.

The modules of this folder name their layers as the checkpoints do: the path of a parameter, joined with
dots, is the tensor's name, but for its last word, and a kernel is the transposed weight.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.typing import DTypeLike

from ragjax.errors import require
from ragjax.models.pretrained.checkpoint import Checkpoint
from ragjax.types import Params

_LAST = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
_SHOWN = 5  # names in a message


def tensor_name(path: tuple[str, ...]) -> str:
    """The tensor that holds the parameter at a path."""
    return ".".join((*path[:-1], _LAST.get(path[-1], path[-1])))


def read_params(
    checkpoint: Checkpoint,
    shapes: Params,
    *,
    prefix: str = "",
    strip: str = "",
    unused: str = "",
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Reads the parameters of a module.

    Args:
      checkpoint: the opened directory.
      shapes: what the module's `init` would make, as `jax.eval_shape` gives it.
      prefix: before the names of the module's tensors; those without it belong to another module.
      strip: what the module's names begin with and the checkpoint's do not.
      unused: a regular expression of names (after the prefix) that the module needs not.
      dtype: of the parameters.

    Returns:
      A tree as `shapes`.

    Raises:
      UserError: a tensor is missing, of another shape, or left over.
    """
    wanted: Any = traverse_util.flatten_dict(shapes)
    names = {path: prefix + tensor_name(path).removeprefix(strip) for path in wanted}
    missing = [name for name in names.values() if name not in checkpoint.shapes]
    require(
        not missing,
        f"{checkpoint.path} lacks {_listed(missing)}, which its config.json asks for; download it "
        "again, or name a directory of a whole model.",
    )
    used = set(names.values())
    left_over = [
        name
        for name in checkpoint.shapes
        if name.startswith(prefix)
        and name not in used
        and not (unused and re.fullmatch(unused, name.removeprefix(prefix)))
    ]
    require(
        not left_over,
        f"{checkpoint.path} holds {_listed(left_over)}, which a model of its config.json does not have; "
        "its figures would be wrong without. Mend config.json, or remove what is not of the model.",
    )
    params = {}
    for path, leaf in wanted.items():
        name, kernel = names[path], path[-1] == "kernel"
        given, expected = checkpoint.shapes[name], leaf.shape[::-1] if kernel else leaf.shape
        require(
            given == expected,
            f"{checkpoint.path}: {name} has shape {list(given)}, but config.json asks for "
            f"{list(expected)}; mend config.json, or download the model again.",
        )
        tensor = jnp.asarray(checkpoint.read(name)).astype(dtype)
        params[path] = tensor.T if kernel else tensor
    return traverse_util.unflatten_dict(params)


def _listed(names: list[str]) -> str:
    """The first few names."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def tensors_of(params: Params, prefix: str = "", strip: str = "") -> dict[str, jax.Array]:
    """The tensors that hold the parameters, by name; see `read_params`."""
    flat: Any = traverse_util.flatten_dict(params)
    return {
        prefix + tensor_name(path).removeprefix(strip): leaf.T if path[-1] == "kernel" else leaf
        for path, leaf in flat.items()
    }
