"""A lease on a directory: one process at a time works in it, also where machines share it.

Whoever holds directory D has a file `D/lock.<n>`, which only one process can create and which says who
that is. The holder touches it every few seconds. Its lock counts no more once its process has ended, as
seen from the same machine, or once it hasn't been touched for `LEASE` seconds, as seen from another one.
Then the next process creates `lock.<n+1>`, which again only one can, and removes the older file.
"""

import contextlib
import hashlib
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ragjax.errors import UserError, require
from ragjax.files import parse_json

LEASE = 60.0  # seconds without a sign of life after which another machine's process counts as dead
BEAT = 5.0  # seconds between two signs of life
_PREFIX = "lock."
_WRITING = 1.0  # seconds that a process may need between creating its lock and filling it


@dataclass(frozen=True)
class Owner:
    """A process, as others recognise it.

    Attributes:
      host: name of its machine.
      pid: its number there.
      started: when it started; a number that is used again belongs to one that started later.
      machine: tells apart machines and containers in which process numbers mean different processes.
    """

    host: str
    pid: int
    started: str
    machine: str

    @classmethod
    def this(cls) -> "Owner":
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _start_of(pid) or "", _machine())

    @property
    def tag(self) -> str:
        """A part of a file's name that says whose it is; see `is_abandoned`."""
        return f"{self.pid}-{self.started}-{self.machine}"

    def has_ended(self) -> bool | None:
        """Whether the process is dead; None where that can't be seen, as on another machine."""
        if self.machine != _machine():
            return None
        started = _start_of(self.pid)
        if started is None and _is_there(self.pid):  # hidden, since it is another user's
            return None
        return started != self.started


def is_abandoned(tag: str, age: float) -> bool:
    """Whether what carries this `Owner.tag` was left by a process that is dead.

    Args:
      tag: the tag, or anything else, which counts as that of an unknown machine.
      age: seconds since it was last written.
    """
    pid, _, rest = tag.partition("-")
    started, _, machine = rest.partition("-")
    ended = Owner("", int(pid), started, machine).has_ended() if pid.isdecimal() else None
    return age > LEASE if ended is None else ended


def _machine() -> str:
    """A short name of this machine since it was started, and of this container on it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _start_of(pid: int) -> str | None:
    """When a process of this machine started, in letters and digits.

    Of one that is dead but not yet buried it is "", and None of one that is not to be seen.
    """
    if Path("/proc/self/stat").exists():
        try:
            # The name of the program stands in brackets, and may hold some.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return "" if fields[0] in "ZX" else fields[19]
    words = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    state, _, started = subprocess.run(words, capture_output=True, text=True).stdout.partition(" ")
    if not state:
        return None
    return "" if state[0] in "ZX" else hashlib.sha256(started.strip().encode()).hexdigest()[:12]


def _is_there(pid: int) -> bool:
    """Whether this machine has a process of this number, also one that it hides."""
    try:
        os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError, TypeError):
        return False
    except PermissionError:
        pass
    return True


class InUseError(UserError):
    """Another process holds the directory."""


@dataclass(frozen=True)
class _Lock:
    """A lock as it is found.

    Attributes:
      path: its file.
      owner: whose it is; None if it doesn't say.
      age: seconds since the last sign of life.
    """

    path: Path
    owner: Owner | None
    age: float

    def is_stale(self) -> bool:
        ended = None if self.owner is None else self.owner.has_ended()
        return self.age > LEASE if ended is None else ended

    def holder(self) -> str:
        if self.owner is None:
            return "an unknown process"
        return f"process {self.owner.pid} on host {self.owner.host}"

    def refusal(self) -> "InUseError":
        return InUseError(
            f"{self.path.parent} is in use by {self.holder()} (its lease was renewed {self.age:.0f} s "
            "ago); wait until it ends, stop it, or name another directory."
        )

    def takeover(self) -> str:
        if self.owner is not None and self.owner.has_ended():
            return f"took {self.path.parent} over from {self.holder()}, which has ended"
        return (
            f"took {self.path.parent} over from {self.holder()}, whose lease was renewed "
            f"{self.age:.0f} s ago and holds for {LEASE:.0f} s"
        )


def clock(directory: Path) -> float:
    """The time by the clock that dates the files of a directory, which may be another machine's."""
    probe = directory / f".{secrets.token_hex(8)}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(_PREFIX))


def _found(directory: Path) -> list[_Lock]:
    """The locks in a directory, oldest first."""
    names = [name for name in os.listdir(directory) if name.startswith(_PREFIX)]
    paths = [directory / name for name in names if name.removeprefix(_PREFIX).isdecimal()]
    locks = [_read(path) for path in sorted(paths, key=_number)]
    return [lock for lock in locks if lock is not None]


def _read(path: Path) -> _Lock | None:
    """One lock, or None if it has been released; waits for one that is just being written."""
    deadline, owner = time.monotonic() + _WRITING, None
    while owner is None:
        try:
            owner = Owner(**parse_json(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    try:
        return _Lock(path, owner, max(clock(path.parent) - path.stat().st_mtime, 0.0))
    except FileNotFoundError:
        return None


def holder(directory: Path) -> str | None:
    """Who holds a directory now, in words; None if nobody does."""
    locks = _found(directory) if directory.is_dir() else []
    return next((lock.holder() for lock in locks if not lock.is_stale()), None)


def _create(path: Path) -> int:
    """Creates the lock of this process, whole from the beginning, and returns its descriptor.

    Raises:
      FileExistsError: there is one of this name.
      FileNotFoundError: its directory has gone.
    """
    content = json.dumps(asdict(Owner.this())).encode()
    own = path.with_name(f".{secrets.token_hex(8)}.tmp")
    file = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.write(file, content)
        os.link(own, path)
        return file
    except FileExistsError:
        os.close(file)
        raise
    except OSError:  # a file system without links
        os.close(file)
    finally:
        with contextlib.suppress(OSError):
            own.unlink()
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(file, content)
    return file


class Lease:
    """A directory that this process holds until `release`; made by `acquire`."""

    def __init__(self, path: Path, file: int, made: list[Path]):
        """Begins to give signs of life.

        Args:
          path: the lock.
          file: its descriptor, by which it is known again.
          made: directories that came about for it, innermost first.
        """
        self._path, self._file, self._made = path, file, made
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease {path}", daemon=True)
        self._heart.start()

    def is_held(self) -> bool:
        """Whether the lock is still the file that this process made."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a file server that is away for a while
                if self.is_held():
                    os.utime(self._file)

    def check(self) -> None:
        """Makes sure that no other process took the directory over while this one stood still.

        Raises:
          UserError: one did.
        """
        directory = self._path.parent
        require(
            self.is_held(),
            f"{directory} was taken over by another process while this one gave no sign of life for "
            f"{LEASE:.0f} s; leave it to that one, or name another directory.",
        )

    def release(self) -> None:
        """Removes the lock, and the directories that came about for it and have stayed empty."""
        self._ended.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            if self.is_held():
                self._path.unlink()
        os.close(self._file)
        for directory in self._made:
            with contextlib.suppress(OSError):
                directory.rmdir()


def acquire(directory: Path, say: Callable[[str], None] = print) -> Lease:
    """Takes a directory, which is made if it is missing, for this process.

    Args:
      directory: the directory.
      say: told if it was taken over from a process that is dead.

    Raises:
      InUseError: another process holds it.
      UserError: it is a file.
      OSError: it can't be written to.
    """
    require(
        not directory.is_file(),
        f"{directory} is a file, but a directory is to be made there; name another place.",
    )
    directory = directory.absolute()
    made: list[Path] = []
    while True:
        try:
            missing = [path for path in (directory, *directory.parents) if not path.exists()]
            directory.mkdir(parents=True, exist_ok=True)
            made += [path for path in missing if path not in made]
            before = _found(directory)
            for lock in before:
                if not lock.is_stale():
                    raise lock.refusal()
            number = max((_number(lock.path) for lock in before), default=0) + 1
            path = directory / f"{_PREFIX}{number}"
            file = _create(path)
        except (FileExistsError, FileNotFoundError):
            if directory.exists() and not directory.is_dir():
                raise
            continue  # another process was faster: to take it, or to leave it and tidy up
        lease = Lease(path, file, made)
        try:
            # Processes that looked at different times may have created different files: since each
            # looks again after it has created its own, at least one of any two sees the other, and
            # gives way.
            for lock in _found(directory):
                if lock.path != path and not lock.is_stale():
                    raise lock.refusal()
        except BaseException:
            lease.release()
            raise
        # One that took a dead one's place, and left again before we looked, has removed the dead one's
        # lock: by its name, which ours may have got meanwhile.
        if lease.is_held():
            break
        lease.release()
    for lock in before:
        lock.path.unlink(missing_ok=True)
        say(lock.takeover())
    return lease


@contextlib.contextmanager
def leased(
    directories: list[Path], say: Callable[[str], None] = print
) -> Iterator[Callable[[], None]]:
    """Holds directories while the block runs.

    Args:
      directories: all of which are taken, or none.
      say: told of each that was taken over from a process that is dead.

    Yields:
      `Lease.check` of all of them.

    Raises:
      UserError: another process holds one.
      OSError: one can't be written to.
    """
    with contextlib.ExitStack() as stack:
        leases = []
        for directory in directories:
            lease = acquire(directory, say)
            stack.callback(lease.release)
            leases.append(lease)

        def check() -> None:
            for lease in leases:
                lease.check()

        yield check
