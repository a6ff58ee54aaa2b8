"""Dialogue: users who ask for what a table knows, one group of files an environment."""
