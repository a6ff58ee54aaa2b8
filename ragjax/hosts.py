"""The processes of one run on several hosts: how they find each other, and what only one of them does.

Every host runs the same command. All make every step together; the first alone writes and measures.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ragjax.errors import UserError, require
from ragjax.lifeline import Lifeline
from ragjax.printing import print_error

WAIT = 120.0  # seconds for the others to come
TEXT = 4096  # bytes of what `from_first` hands on, at most
MISSED = 60  # seconds without a sign of life, after which a host counts as gone and the others end
PARTING = 20  # seconds that a host which was stopped waits for the others to stop with it
LAST = 24 * 3600  # seconds that a host waits for another that still measures, at the end
LOST = 1  # the exit code of a host that has lost another
NOTICE = 1.0  # seconds for the lifeline to tell why something failed
EXCHANGES = ("Gloo", "NCCL", "UNAVAILABLE")  # named by the errors of exchanges between hosts

# A process is one host of one run: what watches the others is the module's.
_lifeline: Lifeline | None = None
_ending = threading.Lock()


def join(
    coordinator: str | None,
    hosts: int | None,
    host: int | None,
    *,
    spreads: bool,
    lost: Callable[[], str],
) -> bool:
    """Joins the other hosts of a run if it has any, and says whether this is the first.

    Args:
      coordinator: see `connect`; None for a run on this host alone.
      hosts: see `connect`.
      host: see `connect`.
      spreads: whether the run's mesh may have more than one device.
      lost: see `connect`.

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
    connect(coordinator, hosts, host, lost=lost)
    return is_first()


def connect(
    coordinator: str,
    hosts: int | None,
    host: int | None,
    wait: float = WAIT,
    lost: Callable[[], str] = str,
) -> None:
    """Joins the other hosts, before anything is computed.

    Args:
      coordinator: "address:port" of host 0; or "auto", where the cluster tells (Slurm, Open MPI, TPU).
      hosts: how many there are; None with "auto".
      host: which this is, from 0; None with "auto".
      wait: seconds for the others to answer.
      lost: what to say, after which host it was, where one is lost later and this process ends.

    Raises:
      UserError: a value is missing or out of range, or the others do not answer.
    """
    global _lifeline
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
        others = _meet(address.strip("[]"), int(port), hosts, host, wait)
        _lifeline = Lifeline(others, lambda gone: _end(f"Host {gone} was lost", lost()))
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


def _end(what: str, lost: str) -> None:
    """Ends the process with one sentence, before JAX ends it in its own way."""
    with _ending:  # for ever: whoever comes second has nothing to add
        print_error(f"{what}{lost}")
        os._exit(LOST)


def _meet(address: str, port: int, hosts: int, host: int, wait: float) -> dict[int, socket.socket]:
    """Waits until all hosts are there: JAX itself ends the process where one never comes.

    Every other host tells host 0 its number and waits for its answer.

    Returns:
      Number of each other host -> the connection to it: of host 0 all, of another that to host 0.

    Raises:
      UserError: one does not come, two have one number, or the port can't be used.
    """
    until, place = time.monotonic() + wait, f"--coordinator {address}:{port}"
    try:
        if host == 0:
            return _receive(port, hosts, until, place, wait)
        return {0: _report(address, port, host, until)}
    except OSError as error:
        what = "Its port can't be used" if host == 0 else "Host 0 does not answer"
        raise UserError(
            f"{what} at {place} within {wait:.0f} s ({error.strerror or error}); check that host 0 "
            "runs, its address, and that the port is free and open."
        ) from error


def _receive(
    port: int, hosts: int, until: float, place: str, wait: float
) -> dict[int, socket.socket]:
    """Host 0: hears of all others, then answers them."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    here: dict[int, socket.socket] = {}
    came: list[socket.socket] = []
    with (
        socket.create_server(("", port), family=family, dualstack_ipv6=dual) as server,
        contextlib.ExitStack() as stack,
    ):
        while len(here) < hosts - 1:
            missing = ", ".join(str(of) for of in range(1, hosts) if of not in here)
            server.settimeout(max(0.01, until - time.monotonic()))
            try:
                other, _ = server.accept()
                came.append(stack.enter_context(other))
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
        server.close()  # first, so that the port is free for JAX once the others begin with it
        for other in here.values():
            other.sendall(b"go")
        for stranger in set(came) - set(here.values()):
            stranger.close()
        stack.pop_all()
    return here


def _report(address: str, port: int, host: int, until: float) -> socket.socket:
    """Another host: tells host 0 its number, as soon as that listens, and waits for its answer."""
    while True:
        try:
            with contextlib.ExitStack() as stack:
                first = stack.enter_context(socket.create_connection((address, port), timeout=5))
                first.sendall(f"{host}\n".encode())
                first.settimeout(max(0.01, until - time.monotonic()))
                if first.recv(2) != b"go":
                    raise ConnectionAbortedError("it has ended")
                stack.pop_all()
                return first
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


def end_if_lost(error: BaseException, lost: Callable[[], str]) -> None:
    """Ends the process with one sentence if a run fails because another host was lost.

    Args:
      error: by which it fails here.
      lost: see `connect`.
    """
    if not jax.distributed.is_initialized():
        return
    if _lifeline is not None:
        _lifeline.wait(NOTICE)
    if type(error).__name__ == "JaxRuntimeError" and any(name in str(error) for name in EXCHANGES):
        _end("Another host was lost", lost())


def leave(code: int) -> None:
    """Ends a process of several, whether it failed, was stopped or has done its part.

    One that failed or was stopped does not wait for hosts that may never come; they end once they miss
    it. Without other hosts nothing is done.
    """
    if _lifeline is not None:
        (_lifeline.close if code else _lifeline.done)()
    if code == 0 or not (jax.distributed.is_initialized() and jax.process_count() > 1):
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
