"""The configs that come with the package, which can be named from any directory."""

import difflib
from pathlib import Path

SHIPPED = Path(__file__).parent / "configs"  # a link in a checkout, where they stand at the top


def find_config(name: Path) -> Path:
    """The file of a config.

    Args:
      name: a path, or the name of a config that came with the package: `world_facts/rag_sequence`, or
        `configs/world_facts/rag_sequence.py` where there is no such file.

    Returns:
      The path; `name` itself where neither is there.
    """
    if name.is_file() or name.is_absolute() or ".." in name.parts:
        return name
    parts = name.parts[1:] if name.parts[:1] == ("configs",) else name.parts
    shipped = SHIPPED.joinpath(*parts)
    if shipped.suffix != ".py":
        shipped = shipped.with_name(f"{shipped.name}.py")
    return shipped if shipped.is_file() else name


def name_like(path: Path) -> str:
    """The config that came with the package whose name is nearest to a path's; "" if none is near."""
    names = [config_name(file) for file in sorted(SHIPPED.rglob("*.py"))]
    near = difflib.get_close_matches(path.as_posix().removesuffix(".py"), names, n=1, cutoff=0.7)
    return "".join(near)


def config_name(path: Path) -> str:
    """How a config is named: without directory and ending if it came with the package."""
    if path.is_relative_to(SHIPPED):
        return path.relative_to(SHIPPED).with_suffix("").as_posix()
    return str(path)
