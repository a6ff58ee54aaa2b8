"""What the architectures read of config.json, and the check of what they are given."""

from collections.abc import Mapping
from typing import Any

from ragjax.errors import require
from ragjax.models.pretrained.layers import ACTIVATIONS


def field_of(
    config: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str
) -> Any:
    """A field of a checkpoint's config.json.

    Raises:
      UserError: it is missing or of another type.
    """
    value = config.get(name)
    require(
        isinstance(value, kind) and not (isinstance(value, bool) and kind is int),
        f"{where}: config.json has {name} {value!r}, which a model of type "
        f"{config.get('model_type')!r} can't be built from; mend it, or download it again.",
    )
    return value


def activation_of(config: Mapping[str, Any], name: str, where: str) -> str:
    """The name of a nonlinearity.

    Raises:
      UserError: it is none of `ACTIVATIONS`.
    """
    value = config.get(name)
    require(
        value in ACTIVATIONS,
        f"{where}: config.json has {name} {value!r}; only {', '.join(ACTIVATIONS)} are supported.",
    )
    return str(value)


def require_positions(length: int, most: int) -> None:
    """Stops where a text is longer than the model has positions for.

    Raises:
      UserError: it is.
    """
    require(
        length <= most,
        f"A text of {length} tokens is to be read, but the model has {most} positions; choose smaller "
        "lengths in tokenizer, or another model.",
    )
