"""The run of plain_run.py: ragjax train tests/support/plain_config.py."""

from plain_run import PlainConfig


def get_config() -> PlainConfig:
    return PlainConfig(log_every=1, checkpoint_every=4)
