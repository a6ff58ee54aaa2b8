"""Attention written out, one head and one position at a time."""

import jax
import numpy as np

from ragjax.models.layers import Attention


def test_attention_by_hand():
    """Each head scales by the root of its own width, and hidden positions count for nothing."""
    rng = np.random.default_rng(0)
    x, memory = rng.normal(size=(2, 4)).astype("f"), rng.normal(size=(3, 4)).astype("f")
    kernels = {
        name: rng.normal(size=(4, 4)).astype("f") for name in ("query", "key", "value", "out")
    }
    params = {"params": {name: {"kernel": kernel} for name, kernel in kernels.items()}}
    mask = np.array([[True, True, False], [True, True, True]])
    module = Attention(width=4, heads=2)

    @jax.jit
    def run(params, x, memory, mask):
        def attend(module, x, memory, mask):
            return module(x, module.project(memory), mask)

        return module.apply(params, x, memory, mask, method=attend)

    query, key, value = x @ kernels["query"], memory @ kernels["key"], memory @ kernels["value"]
    mixed = np.zeros((2, 4))
    for place in range(2):
        for head in (slice(0, 2), slice(2, 4)):
            weight = np.exp(key[:, head] @ query[place, head] / np.sqrt(2)) * mask[place]
            mixed[place, head] = weight @ value[:, head] / weight.sum()
    np.testing.assert_allclose(
        run(params, x, memory, mask), mixed @ kernels["out"], rtol=1e-4, atol=1e-5
    )
