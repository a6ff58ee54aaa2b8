"""One directory, one process: who may work in it, who takes it over, and what nobody deletes."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_config

from ragjax import commands, lease
from ragjax.errors import UserError
from ragjax.files import write_atomically
from ragjax.lease import LEASE, Owner, acquire, is_abandoned, leased
from ragjax.printing import PlainConsole
from ragjax.training.checkpoint import Checkpoints

pytest_plugins = ["tiny_run"]

CONFIG = Path(__file__).parent / "support" / "tiny_config.py"
ELSEWHERE = Owner("far-away", 4711, "1", "another")


@pytest.fixture
def dead():
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = lease._start_of(process.pid)
    process.communicate(b"\n")
    return dataclasses.replace(Owner.this(), pid=process.pid, started=started)


def write_lock(directory, owner, number=1, age=0.0):
    """Leaves a lock as a process does, last touched `age` seconds ago."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"lock.{number}"
    path.write_text(owner if isinstance(owner, str) else json.dumps(dataclasses.asdict(owner)))
    os.utime(path, (time.time() - age,) * 2)
    return path


def listing(directory):
    return sorted(path.name for path in directory.iterdir())


# The lease


def test_what_a_lock_says(tmp_path):
    with leased([tmp_path]) as check:
        (path,) = tmp_path.iterdir()
        assert path.name == "lock.1"
        assert Owner(**json.loads(path.read_text())) == Owner.this()
        check()
    assert listing(tmp_path) == []
    assert Owner.this().pid == os.getpid()
    assert Owner.this().has_ended() is False


def test_a_second_process_is_refused(tmp_path):
    with leased([tmp_path]):
        with pytest.raises(UserError) as error:
            acquire(tmp_path)
        message = str(error.value)
        assert message.startswith(
            f"{tmp_path} is in use by process {os.getpid()} on host {Owner.this().host} (its lease was "
        )
        assert "renewed 0 s ago" in message
        assert "\n" not in message
        assert listing(tmp_path) == ["lock.1"]
    acquire(tmp_path).release()


def test_how_old_the_lease_is(tmp_path):
    write_lock(tmp_path, ELSEWHERE, age=LEASE - 18)
    with pytest.raises(UserError, match=r"4711 on host far-away \(its lease was renewed 4[123] s"):
        acquire(tmp_path)


def test_a_process_of_this_machine_is_alive_however_old_its_lock_is(tmp_path):
    """It may have been stopped, or have waited for a file server."""
    write_lock(tmp_path, Owner.this(), age=100 * LEASE)
    with pytest.raises(UserError, match="in use"):
        acquire(tmp_path)


@pytest.mark.parametrize("number", [1, 9, 10])
def test_a_dead_process_of_this_machine(number, dead, tmp_path):
    write_lock(tmp_path, dead, number)
    said = []
    with leased([tmp_path], said.append):
        assert listing(tmp_path) == [f"lock.{number + 1}"]
    assert listing(tmp_path) == []
    assert said == [
        f"took {tmp_path} over from process {dead.pid} on host {dead.host}, which has ended"
    ]


def test_a_number_that_is_used_again_is_another_process(tmp_path):
    write_lock(tmp_path, dataclasses.replace(Owner.this(), started="1"))
    said = []
    acquire(tmp_path, said.append).release()
    assert said[0].endswith(", which has ended")


def test_a_process_that_is_dead_but_not_yet_buried(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = dataclasses.replace(
        Owner.this(), pid=process.pid, started=lease._start_of(process.pid) or ""
    )
    assert owner.has_ended() is False
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.has_ended() is True
    process.communicate()


def test_a_process_that_the_machine_hides(tmp_path, monkeypatch):
    """Some show each user only processes of their own."""
    write_lock(tmp_path, Owner.this(), age=LEASE - 5)
    monkeypatch.setattr(lease, "_start_of", lambda pid: None)
    with pytest.raises(UserError, match="in use"):
        acquire(tmp_path)


def test_another_machine_that_gives_no_sign_of_life(tmp_path):
    write_lock(tmp_path, ELSEWHERE, age=LEASE + 5)
    said = []
    with leased([tmp_path], said.append):
        assert listing(tmp_path) == ["lock.2"]
    assert said[0].startswith(
        f"took {tmp_path} over from process 4711 on host far-away, whose lease was renewed 6"
    )
    assert said[0].endswith(f"and holds for {LEASE:.0f} s")


def test_the_clock_is_that_of_the_files(tmp_path, monkeypatch):
    """Machines that share a directory need not agree on the time."""
    write_lock(tmp_path, ELSEWHERE, age=5)
    monkeypatch.setattr(time, "time", lambda: 1e10)
    with pytest.raises(UserError, match="renewed 5 s ago"):
        acquire(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_lock_that_says_nothing(content, tmp_path, monkeypatch):
    """Of a process that was killed before it wrote it, or is about to write it."""
    monkeypatch.setattr(lease, "_WRITING", 0.05)
    path = write_lock(tmp_path, content)
    with pytest.raises(UserError, match="in use by an unknown process"):
        acquire(tmp_path)
    os.utime(path, (time.time() - LEASE - 1,) * 2)
    acquire(tmp_path, [].append).release()
    assert listing(tmp_path) == []


def test_a_lock_that_is_just_being_written_is_waited_for(tmp_path):
    path = write_lock(tmp_path, "")
    text = json.dumps(dataclasses.asdict(Owner.this()))
    threading.Timer(0.1, lambda: path.write_text(text)).start()
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} "):
        acquire(tmp_path)


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    held = acquire(tmp_path)
    path = tmp_path / "lock.1"
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert abs(path.stat().st_mtime - time.time()) < 5
    held.release()
    assert not held._heart.is_alive()


@pytest.mark.parametrize("begun_anew", [False, True])
def test_a_lease_that_was_lost(begun_anew, tmp_path, monkeypatch):
    """Another machine took the directory over while this process stood still."""
    monkeypatch.setattr(lease, "BEAT", 0.01)
    held = acquire(tmp_path)
    held.check()
    (tmp_path / "lock.1").unlink()
    other = write_lock(tmp_path, ELSEWHERE, 1 if begun_anew else 2, age=LEASE / 2)
    before = other.read_bytes(), other.stat().st_mtime
    with pytest.raises(UserError, match=f"{tmp_path} was taken over by another process"):
        held.check()
    checkpoints = Checkpoints(tmp_path / "checkpoints", may_write=held.check)
    with pytest.raises(UserError, match="taken over"):
        checkpoints.save(1, {"a": np.zeros(3)})
    assert not checkpoints.directory.exists()
    time.sleep(0.05)
    held.release()
    assert (other.read_bytes(), other.stat().st_mtime) == before  # the other's is left alone


def test_directories_that_came_about_for_it_go_with_it(tmp_path):
    with leased([tmp_path / "a" / "b", tmp_path / "a" / "c"]):
        (tmp_path / "a" / "c" / "kept").touch()
    assert listing(tmp_path / "a") == ["c"]
    with pytest.raises(KeyError), leased([tmp_path / "x" / "y"]):
        raise KeyError
    assert listing(tmp_path) == ["a"]


def test_all_directories_or_none(tmp_path):
    with leased([tmp_path / "b"]), pytest.raises(UserError, match="/b is in use"):
        leased([tmp_path / "a", tmp_path / "b"]).__enter__()
    assert listing(tmp_path) == []


@pytest.mark.parametrize("stale", [False, True])
def test_of_two_that_saw_the_same_one_wins(stale, dead, tmp_path, monkeypatch):
    """Each has looked before the other creates its lock."""
    if stale:
        write_lock(tmp_path, dead, 3)
    create, inner = lease._create, []

    def meanwhile(path):
        if not inner:
            inner.append(None)
            inner[0] = acquire(tmp_path, [].append)
        return create(path)

    monkeypatch.setattr(lease, "_create", meanwhile)
    with pytest.raises(UserError, match="is in use by process"):
        acquire(tmp_path, [].append)
    inner[0].check()
    assert listing(tmp_path) == ["lock.4" if stale else "lock.1"]
    inner[0].release()
    assert listing(tmp_path) == []


def test_one_that_looked_long_ago_gives_way(dead, tmp_path, monkeypatch):
    """It saw a stale lock that has been taken over and released since; a third process works here."""
    write_lock(tmp_path, dead, 3)
    create, third = lease._create, []

    def meanwhile(path):
        if path.name == "lock.4" and not third:
            third.append(None)
            acquire(tmp_path, [].append).release()
            third[0] = acquire(tmp_path)
        return create(path)

    monkeypatch.setattr(lease, "_create", meanwhile)
    with pytest.raises(UserError, match="is in use by process"):
        acquire(tmp_path)
    assert listing(tmp_path) == ["lock.1"]
    third[0].check()
    third[0].release()


def test_one_whose_lock_was_taken_for_a_dead_one_s_takes_another(tmp_path, monkeypatch):
    """Who removed it has left again by the time that this one looks for others."""
    create, paths = lease._create, []

    def removed(path):
        file = create(path)
        paths.append(path)
        if len(paths) == 1:
            path.unlink()
        return file

    monkeypatch.setattr(lease, "_create", removed)
    held = acquire(tmp_path)
    held.check()
    assert len(paths) == 2
    assert listing(tmp_path) == ["lock.1"]
    held.release()


def test_a_directory_that_goes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """By another process, which tidies up; `mkdir` finds it there, and then not."""
    make, calls = Path.mkdir, []

    def mkdir(path, *args, **options):
        calls.append(path)
        if len(calls) == 1:
            raise FileExistsError(path)
        return make(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with leased([tmp_path / "a"]) as check:
        check()
    assert len(calls) == 2


def test_what_is_no_directory_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError):
        acquire(tmp_path / "pipe")


def test_a_lock_is_whole_from_the_beginning(tmp_path, monkeypatch):
    """Of a process that is killed before it has its lock, there is nothing to wait for."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            acquire(tmp_path)
    acquire(tmp_path).release()
    assert listing(tmp_path) == []


def test_where_files_have_no_links(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    held = acquire(tmp_path)
    assert listing(tmp_path) == ["lock.1"]
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} "):
        acquire(tmp_path)
    held.release()


def _compete(directory, ready, go, outcome):
    ready.release()
    go.wait()
    try:
        held = acquire(directory, [].append)
    except UserError as error:
        outcome.put(str(error))
        return
    outcome.put("won")
    time.sleep(0.3)
    held.release()


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_threads_at_the_same_instant_one_wins(stale, dead, tmp_path):
    """Threads share a process, which counts as alive for all of them."""
    if stale:
        write_lock(tmp_path, dead, 3)
    count, wins, refusals = 12, [], []
    barrier = threading.Barrier(count)
    done = threading.Event()

    def compete():
        barrier.wait()
        try:
            held = acquire(tmp_path, [].append)
        except UserError as error:
            refusals.append(str(error))
            return
        wins.append(held)
        done.wait()
        held.release()

    threads = [threading.Thread(target=compete) for _ in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(wins) + len(refusals) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert (len(wins), len(refusals)) == (1, count - 1)
    assert all(f"process {os.getpid()} on host" in message for message in refusals)
    assert listing(tmp_path) == []


def test_of_two_processes_at_the_same_instant_one_wins(dead, tmp_path):
    """One that is dead was here before."""
    write_lock(tmp_path, dead)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ragjax.lease"])
    ready, go, outcome = context.Semaphore(0), context.Event(), context.Queue()
    arguments = (tmp_path, ready, go, outcome)
    processes = [context.Process(target=_compete, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    found = sorted(outcome.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found[1] == "won"
    assert "is in use by process" in found[0]
    assert listing(tmp_path) == []


# Whose a file is


def test_tags(dead):
    assert not is_abandoned(Owner.this().tag, 1e9)
    assert is_abandoned(dead.tag, 0.0)
    for tag in (ELSEWHERE.tag, "123", "", "x-y-z", "1-2"):
        assert not is_abandoned(tag, LEASE - 1)
        assert is_abandoned(tag, LEASE + 1)


def test_a_save_removes_what_the_dead_left_and_nothing_else(dead, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": np.arange(3.0)})
    gone = [f"partial-{dead.tag}", f"partial-{dead.tag}-replaced", "partial-old"]
    alive = dataclasses.replace(Owner.this(), pid=os.getppid())
    alive = dataclasses.replace(alive, started=lease._start_of(alive.pid) or "")
    kept = [f"partial-{alive.tag}", f"partial-{ELSEWHERE.tag}", "partial-new", "notes"]
    for name in (*gone, *kept):
        (tmp_path / name / "state").mkdir(parents=True)
        (tmp_path / name / "state" / "half").touch()
    long_ago = time.time() - 2 * LEASE
    for name in ("partial-old", f"partial-{alive.tag}", f"partial-{ELSEWHERE.tag}"):
        for path in (tmp_path / name / "state", tmp_path / name):
            os.utime(path, (long_ago, long_ago))
    os.utime(tmp_path / "partial-old" / "state" / "half", (long_ago, long_ago))
    checkpoints.save(2, {"a": np.arange(3.0)})
    assert listing(tmp_path) == sorted([*kept, "1", "2"])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_checkpoint_that_the_run_drops_while_it_is_read(when, tmp_path, monkeypatch):
    """Whoever only reads takes no lease, and goes on with a newer checkpoint."""
    state = {"a": np.arange(3.0)}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state)
    manifest = Checkpoints._manifest

    def meanwhile(self, step):
        found = manifest(self, step) if when == "after" else None
        if step == 1:
            checkpoints.save(2, {"a": np.arange(3.0) + 1})
        return manifest(self, step) if when == "before" else found

    monkeypatch.setattr(Checkpoints, "_manifest", meanwhile)
    step, found, damaged = Checkpoints(tmp_path).restore(state)
    assert (step, damaged) == (2, [])
    assert np.asarray(found["a"]).tolist() == [1.0, 2.0, 3.0]


def test_two_write_the_same_file(tmp_path, monkeypatch):
    """Also two of the same process number, on two machines: the last one wins, whole."""
    path, fsync = tmp_path / "file", os.fsync

    def meanwhile(file):
        fsync(file)
        monkeypatch.setattr(os, "fsync", fsync)
        write_atomically(path, b"inner")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_atomically(path, b"outer")
    assert path.read_bytes() == b"outer"
    assert listing(tmp_path) == ["file"]


def test_data_is_prepared_by_two_at_once(tmp_path, monkeypatch):
    from tiny_task import CachedTask

    from ragjax.data import builder

    write, begun = builder.TableBuilder._generate_examples, []

    def meanwhile(self, rows):
        if not begun:
            begun.append(self.table)
            assert CachedTask().load(tmp_path) == CachedTask().generate()
        yield from write(self, rows)

    monkeypatch.setattr(builder.TableBuilder, "_generate_examples", meanwhile)
    assert CachedTask().load(tmp_path) == CachedTask().generate()
    assert begun == ["passages"]
    assert not list(tmp_path.rglob("*incomplete*"))


# Runs


def train(config, run_dir, resume=False):
    return commands.train(config, run_dir, resume=resume, console=PlainConsole(quiet=True))


def test_a_run_is_refused_where_another_one_is_under_way(refused, copied):
    write_lock(copied, ELSEWHERE, age=7)
    for words in ([], ["--resume"]):
        message = refused("train", CONFIG, "--run-dir", copied, *words)
        age = re.search(r"renewed (\d+) s ago", message)
        assert age is not None
        assert 7 <= int(age[1]) < 120  # a busy machine takes a while to refuse
        assert message == (
            f"{copied} is in use by process 4711 on host far-away (its lease was renewed {age[1]} s "
            "ago); wait until it ends, stop it, or name another directory."
        )
    assert (copied / "lock.1").exists()


def test_a_run_that_is_under_way_can_be_used(ragjax, copied):
    with leased([copied]):
        code, out, _ = ragjax("answer", copied, "Where does Ada live?", "--json", "--force")
    assert code == 0
    assert json.loads(out)["answer"]


def test_a_run_goes_on_where_another_one_was_killed(ragjax, dead, copied):
    (copied / "result.json").unlink()
    write_lock(copied, dead)
    code, _, err = ragjax("train", CONFIG, "--run-dir", copied, "--resume")
    assert code == 0
    said = " ".join(err.split())  # a narrow console breaks lines
    assert f"over from process {dead.pid} on host {dead.host}, which has ended" in said
    assert (copied / "result.json").exists()
    assert not list(copied.glob("lock.*"))


class Stop(Exception):
    """Ends a run where the test wants to look."""


@pytest.fixture
def stopped(monkeypatch):
    """(config, run directory, what to do) -> runs, and does it instead of making the learner."""

    def run(config, run_dir, then):
        def create(self):
            then()
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(type(config), "create", create)
            with pytest.raises(Stop):
                train(config, run_dir)

    return run


def test_seeds_side_by_side_hold_their_own_directories(stopped, tmp_path):
    one = tiny_config.get_config()
    several = dataclasses.replace(one, num_seeds=2)

    def others():
        locks = sorted(path.parent.name for path in tmp_path.rglob("lock.*"))
        assert locks == ["run", "seed_0", "seed_1"]
        for config, place in ((several, ""), (one, ""), (one, "seed_1"), (several, "seed_0")):
            with pytest.raises(UserError, match=r"is in use by process"):
                train(config, tmp_path / "run" / place)
        assert sorted(path.parent.name for path in tmp_path.rglob("lock.*")) == locks

    stopped(several, tmp_path / "run", others)
    assert list(tmp_path.iterdir()) == []


def test_a_run_within_the_directory_of_several_seeds(stopped, tmp_path):
    one = tiny_config.get_config()

    def others():
        with pytest.raises(UserError, match=r"seed_1 is in use by process"):
            train(dataclasses.replace(one, num_seeds=2), tmp_path / "run")

    stopped(one, tmp_path / "run" / "seed_1", others)
    assert list(tmp_path.iterdir()) == []


def test_the_lease_ends_with_whatever_ends_the_run(tmp_path, monkeypatch):
    config = tiny_config.get_config()
    for error in (KeyboardInterrupt, UserError, ValueError, SystemExit):

        def create(self, error=error):
            assert (tmp_path / "run" / "lock.1").exists()
            raise error

        monkeypatch.setattr(type(config), "create", create)
        with pytest.raises(error):
            train(config, tmp_path / "run")
        assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_while_another_one_waits_to_begin(tmp_path, copied, monkeypatch):
    """What may be begun is decided once the directory is held."""
    config, take = tiny_config.get_config(), commands.leased

    def meanwhile(directories, say):
        copied.rename(tmp_path / "run")
        return take(directories, say)

    monkeypatch.setattr(commands, "leased", meanwhile)
    with pytest.raises(UserError, match="already holds a run; it is finished"):
        train(config, tmp_path / "run")
