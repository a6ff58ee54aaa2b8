"""Retrieval-augmented generation and reinforcement learning as one marginal over passages, in JAX."""
