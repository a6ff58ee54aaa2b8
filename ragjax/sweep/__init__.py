"""Sweeps: many runs of one config with other values, the best of which is chosen on development data."""
