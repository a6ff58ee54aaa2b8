"""Environments: one file each, their wrappers, and the way to and from Gymnasium."""
