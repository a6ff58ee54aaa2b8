"""Retrieval-augmented generation and reinforcement learning as one marginal over passages, in JAX."""

from importlib import metadata

try:
    __version__ = metadata.version("ragjax")
except metadata.PackageNotFoundError:  # a checkout that isn't installed
    __version__ = "unknown"
