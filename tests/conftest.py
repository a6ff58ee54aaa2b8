"""What every test shares: two simulated devices, strict dtypes, checked annotations."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Annotations of public functions are checked while the tests run. The hook must precede the imports.
install_import_hook("ragjax", "beartype.beartype")


@pytest.fixture(autouse=True)
def _prepared_data_apart(tmp_path_factory, monkeypatch):
    """Keeps prepared data out of the user's cache, in one directory a session."""
    base = tmp_path_factory.getbasetemp() / "prepared"
    monkeypatch.setenv("RAGJAX_DATA_DIR", str(base))
