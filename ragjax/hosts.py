"""The processes of one run on several hosts: how they find each other, and what only one of them does.

Every host runs the same command. All make every step together; the first alone writes and measures.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ragjax.errors import UserError, require

WAIT = 120.0  # seconds for the others to come
TEXT = 4096  # bytes of what `from_first` hands on, at most
MISSED = 60  # seconds without a sign of life, after which a host counts as gone and the others end
PARTING = 20  # seconds that a host which was stopped waits for the others to stop with it
LAST = 24 * 3600  # seconds that a host waits for another that still measures, at the end


def join(coordinator: str | None, hosts: int | None, host: int | None, *, spreads: bool) -> bool:
    """Joins the other hosts of a run if it has any, and says whether this is the first.

    Args:
      coordinator: see `connect`; None for a run on this host alone.
      hosts: see `connect`.
      host: see `connect`.
      spreads: whether the run's mesh may have more than one device.

    Raises:
      UserError: see `connect`; or the options don't fit together.
    """
    require(
        coordinator is not None or (hosts is None and host is None),
        "--hosts or --host is given without --coordinator; add address:port of host 0.",
    )
    if coordinator is None:
        return True
    require(
        spreads,
        "--coordinator is given, but mesh.devices is 1; set --mesh.devices 0 for all devices of all "
        "hosts.",
    )
    connect(coordinator, hosts, host)
    return is_first()


def connect(coordinator: str, hosts: int | None, host: int | None, wait: float = WAIT) -> None:
    """Joins the other hosts, before anything is computed.

    Args:
      coordinator: "address:port" of host 0; or "auto", where the cluster tells (Slurm, Open MPI, TPU).
      hosts: how many there are; None with "auto".
      host: which this is, from 0; None with "auto".
      wait: seconds for the others to answer.

    Raises:
      UserError: a value is missing or out of range, or the others do not answer.
    """
    told: dict[str, Any] = {}
    if coordinator != "auto":
        if hosts is None or host is None or not 0 <= host < hosts:
            raise UserError(
                f"--coordinator is {coordinator}, --hosts {hosts} and --host {host}; give the number of "
                "hosts and which of them this is, from 0."
            )
        address, _, port = coordinator.rpartition(":")
        require(
            bool(address) and port.isdigit() and 0 < int(port) < 2**16,
            f"--coordinator is {coordinator!r}; give address:port of host 0, or auto.",
        )
        _meet(address.strip("[]"), int(port), hosts, host, wait)
        told = {"coordinator_address": coordinator, "num_processes": hosts, "process_id": host}
    else:
        require(
            hosts is None and host is None,
            "--hosts or --host is given, but --coordinator auto takes them from the cluster; leave them "
            "out.",
        )
    # JAX would take SIGTERM for itself, and a run that is stopped would not be saved.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **told,
            initialization_timeout=int(wait),
            heartbeat_timeout_seconds=MISSED,
            shutdown_timeout_seconds=LAST,
        )
    except Exception as error:  # of gRPC, or of whatever detects the cluster
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"JAX can't join the hosts of --coordinator {coordinator} ({reason}); check that every host "
            "runs the command with a --host of its own, and that the port is open."
        ) from error


def _meet(address: str, port: int, hosts: int, host: int, wait: float) -> None:
    """Waits until all hosts are there: JAX itself ends the process where one never comes.

    Every other host tells host 0 its number and waits for its answer.

    Raises:
      UserError: one does not come, two have one number, or the port can't be used.
    """
    until, place = time.monotonic() + wait, f"--coordinator {address}:{port}"
    try:
        if host == 0:
            _receive(port, hosts, until, place, wait)
        else:
            _report(address, port, host, until)
    except OSError as error:
        what = "Its port can't be used" if host == 0 else "Host 0 does not answer"
        raise UserError(
            f"{what} at {place} within {wait:.0f} s ({error.strerror or error}); check that host 0 "
            "runs, its address, and that the port is free and open."
        ) from error


def _receive(port: int, hosts: int, until: float, place: str, wait: float) -> None:
    """Host 0: hears of all others, then answers them."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    here: dict[int, socket.socket] = {}
    with (
        socket.create_server(("", port), family=family, dualstack_ipv6=dual) as server,
        contextlib.ExitStack() as stack,
    ):
        while len(here) < hosts - 1:
            missing = ", ".join(str(of) for of in range(1, hosts) if of not in here)
            server.settimeout(max(0.01, until - time.monotonic()))
            try:
                other, _ = server.accept()
                stack.enter_context(other)
                other.settimeout(5)
                said = other.recv(16).decode(errors="replace").strip()
            except ConnectionError:  # who came has gone, and is none of ours
                continue
            except TimeoutError as error:
                if time.monotonic() < until:  # who came said nothing, and is none of ours
                    continue
                raise UserError(
                    f"Of {hosts} hosts, {missing} did not come to {place} within {wait:.0f} s; check "
                    "that they run the same command, each with its own --host."
                ) from error
            if said.isdigit() and 0 < int(said) < hosts:
                require(
                    int(said) not in here,
                    f"--host {said} is given on two hosts; give each its own.",
                )
                here[int(said)] = other
        for other in here.values():
            other.sendall(b"go")
        for other in here.values():
            other.recv(1)  # they close first, which leaves the port free for JAX


def _report(address: str, port: int, host: int, until: float) -> None:
    """Another host: tells host 0 its number, as soon as that listens, and waits for its answer."""
    while True:
        try:
            with socket.create_connection((address, port), timeout=5) as first:
                first.sendall(f"{host}\n".encode())
                first.settimeout(max(0.01, until - time.monotonic()))
                if first.recv(2) == b"go":
                    return
                raise ConnectionAbortedError("it has ended")
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def is_first() -> bool:
    """Whether this is the host that writes and measures."""
    return jax.process_index() == 0


def from_first(text: str) -> str:
    """What the first host says; every host has to ask, and gets it once all have come here."""
    if jax.process_count() == 1:
        return text
    from jax.experimental.multihost_utils import broadcast_one_to_all

    said, words = np.zeros(TEXT, np.uint8), text.encode()[:TEXT]
    said[: len(words)] = np.frombuffer(words, np.uint8)
    return bytes(np.asarray(broadcast_one_to_all(said))).rstrip(b"\0").decode(errors="replace")


def leave(code: int) -> None:
    """Ends a process that failed or was stopped, without waiting for hosts that may never come.

    They end once they miss it. Without other hosts nothing is done.
    """
    if not (jax.distributed.is_initialized() and jax.process_count() > 1):
        return
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(PARTING)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class AnyHost:
    """Whether any host was asked to stop, told to all of them at the same step.

    Asked at every step, it answers what the hosts said at the step before, so that none waits for
    another within a step.
    """

    def __init__(self, mesh: Mesh):
        """Over the hosts whose devices are in the mesh."""
        self._sharding = NamedSharding(mesh, jax.P("data"))
        self._sum = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, jax.P()))
        self._before: Any = None
        self._devices = mesh.size

    def __call__(self, here: bool, last: bool) -> bool:
        """What all hosts said the time before, and where it is the last time what they say now, too."""
        told = False if self._before is None else bool(np.asarray(self._before))
        flags = jax.make_array_from_callback(
            (self._devices,),
            self._sharding,
            lambda index: np.full(self._devices, here, np.int32)[index],
        )
        self._before = self._sum(flags)
        return told or (last and bool(np.asarray(self._before)))
