"""A run on many devices, and on several hosts, against the same run on one."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
import tiny_policy_config
from command_line import the_sentence
from processes import PATIENCE, finish, kill, wait_for

from ragjax import cli
from ragjax.config import from_json, load_config, to_json, write_config
from ragjax.errors import UserError
from ragjax.evaluation.runs import _without_seed
from ragjax.hosts import LOST, _meet, connect
from ragjax.lifeline import Lifeline
from ragjax.mesh import IN_ORDER, DeviceMesh, mesh_notes
from ragjax.models.hybrid import Hybrid
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.overrides import override
from ragjax.retrieval import blocks
from ragjax.retrieval.fixed import Random
from ragjax.retrieval.scann import Scann
from ragjax.run_dir import check_run_dir
from ragjax.sweep.trials import identity
from ragjax.training.placement import Placement
from ragjax.training.program import starting_state, training_program

SUPPORT = Path(__file__).parents[1] / "support"
TINY = str(SUPPORT / "tiny_config.py")
EIGHT = [
    *("--phases.0.batch-size", "8", "--phases.1.batch-size", "8", "--evaluation.every", "0"),
    *("--phases.0.steps", "6", "--phases.1.steps", "6", "--objective.documents", "in_batch"),
]


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return os.environ | {
        "XLA_FLAGS": f"{flags} {IN_ORDER}",
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])]),
        "JAX_PLATFORMS": "cpu",
    }


def told_of(name):
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "on_devices.py"), name],
        env=environment(8),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        pytest.param("rag", 1e-5, marks=pytest.mark.slow),
        ("rag_sharded", 1e-5),
        pytest.param("rag_bfloat16", 0.1, marks=pytest.mark.slow),
        pytest.param("remat", 1e-5, marks=pytest.mark.slow),
        pytest.param("remat_sharded", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_questions_on_eight_devices_and_on_one(name, near):
    """50 steps with an index that is refreshed, and with gradients that are accumulated."""
    told = told_of(name)
    np.testing.assert_allclose(told["many"], told["one"], rtol=near, atol=near)
    assert len(told["many"]) == 50
    assert told["many"][-1] < told["many"][0]
    assert told["compilations"] == 1
    assert told["same_shapes"]
    assert told["back_and_forth"]
    assert told["is_sharded"]
    assert told["rows_of_each"] == 8  # 30 passages in blocks of 8, of which four devices have one
    plain, gathered, on_mesh = told["ids"]
    assert gathered == on_mesh
    if near < 1e-4:
        assert plain == on_mesh
    assert any(told["parts"]) == (name not in ("rag", "remat"))
    assert (told["layers_computed_again"] > 0) == name.startswith("remat")


@pytest.mark.parametrize("name", [pytest.param("ppo", marks=pytest.mark.slow), "ppo_sharded"])
def test_a_policy_on_eight_devices_and_on_one(name):
    told = told_of(name)
    np.testing.assert_allclose(told["many"], told["one"], rtol=1e-5, atol=1e-5)
    assert told["compilations"] == 1
    assert told["back_and_forth"]
    assert told["environments_of_each"] == [1]


def run_of(processes, *arguments, devices=2):
    return processes([sys.executable, "-m", "ragjax", "train", TINY, *EIGHT, *arguments], devices)


@pytest.fixture
def started():
    """(arguments, devices) -> a process; those that are left are killed."""
    made = []

    def start(arguments, devices):
        made.append(
            subprocess.Popen(
                arguments,
                env=environment(devices),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def losses_of(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.slow
def test_saved_on_two_devices_and_continued_on_one(tmp_path, started):
    """And by the command; the losses are those of a run that was on one device throughout."""
    both, alone = tmp_path / "both", tmp_path / "alone"
    finish(run_of(started, "--run-dir", str(alone), devices=1))
    process = run_of(started, "--run-dir", str(both), "--mesh.devices", "2")
    wait_for(process, both / "checkpoints" / "4")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert not (both / "result.json").exists()
    errors = finish(run_of(started, "--run-dir", str(both), "--resume", devices=1))
    assert "continuing at step" in errors
    ours, theirs = losses_of(both), losses_of(alone)
    assert list(ours) == list(range(1, 13))
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def two_hosts(started, run_dir, *arguments):
    address = f"localhost:{free_port()}"
    options = ("--mesh.devices", "0", "--coordinator", address, "--hosts", "2")
    return [
        run_of(
            started, "--run-dir", str(run_dir), *options, "--host", str(host), *arguments, devices=1
        )
        for host in (0, 1)
    ]


def test_two_hosts_train_one_run_and_a_signal_to_one_saves_it(tmp_path, started):
    """One checkpoint of both; a signal stops both at the same step; they go on where they were."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    first, second = two_hosts(started, together, "--checkpoint-every", "2")
    wait_for(first, together / "checkpoints" / "2")
    second.send_signal(signal.SIGTERM)
    for process in (first, second):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert "stopped; continue with" in errors
    (*_, last) = sorted(int(path.name) for path in (together / "checkpoints").iterdir())
    assert last == max(losses_of(together))
    for process in two_hosts(started, together, "--checkpoint-every", "2", "--resume"):
        finish(process)
    finish(run_of(started, "--run-dir", str(alone), "--checkpoint-every", "2", devices=1))
    ours, theirs = losses_of(together), losses_of(alone)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
    assert len(ours) == 12
    result = json.loads((together / "result.json").read_text())
    assert 0 < result["resumed_at"] == last
    assert result["devices"].startswith("2 x")


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_host_whose_other_is_killed_says_so_and_how_to_go_on(tmp_path, started, killed):
    """No traceback of an exchange that failed; JAX itself may log that it lost its service, host 0."""
    run_dir = tmp_path / "run"
    hosts = two_hosts(started, run_dir, "--checkpoint-every", "2", "--phases.1.steps", "600")
    wait_for(hosts[0], run_dir / "checkpoints" / "4")
    kill(hosts[killed])
    _, errors = hosts[1 - killed].communicate(timeout=PATIENCE)
    assert hosts[1 - killed].returncode == LOST, errors
    assert "Traceback" not in errors
    (sentence,) = (line for line in errors.splitlines() if line.startswith("ragjax: "))
    assert f"Host {killed} was lost" in sentence
    last = re.search(r"last good checkpoint: (\S+)\)", sentence).group(1)
    assert Path(last).parent == run_dir / "checkpoints"
    assert int(Path(last).name) >= 4
    *_, command = sentence.partition("here with: ")
    assert command.startswith(f"ragjax train {TINY} ")
    assert command.endswith(f"--host {1 - killed} --resume")


@pytest.fixture
def lines():
    """Two ends of one connection."""
    with socket.create_server(("localhost", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    with one, other:
        yield one, other


def heard(lines, number=0):
    """A lifeline to host `number` at one end, and what it is told."""
    told = []
    return Lifeline({number: lines[0]}, told.append), told


def test_a_lifeline_tells_of_a_host_that_ends(lines):
    watching, told = heard(lines, 3)
    lines[1].close()
    watching.wait(float(PATIENCE))
    assert told == [3]


def test_a_lifeline_hands_on_who_was_lost(lines):
    watching, told = heard(lines)
    lines[1].sendall(b"12")
    watching.wait(float(PATIENCE))
    assert told == [12]


def test_a_host_that_has_done_its_part_is_not_lost(lines):
    watching, told = heard(lines)
    other = Lifeline({1: lines[1]}, told.append)
    other.done()
    watching.wait(float(PATIENCE))
    other.close()
    lines[1].shutdown(socket.SHUT_RDWR)
    other.wait(float(PATIENCE))
    assert told == []


def test_a_host_that_ends_itself_watches_no_more(lines):
    watching, told = heard(lines)
    watching.close()
    lines[1].close()
    watching.wait(float(PATIENCE))
    assert told == []
    assert lines[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


# What bad input gets


def test_fewer_devices_than_none():
    with pytest.raises(UserError, match=r"mesh.devices is -1; give a number"):
        DeviceMesh(devices=-1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--mesh.devices", "9"),
            "mesh.devices is 9, but JAX has 2 here; choose at most that many",
        ),
        (
            ("--mesh.devices", "0", "--phases.1.batch-size", "9"),
            "phases.1.batch_size is 9, which the 2",
        ),
        (
            ("--mesh.devices", "2", "--optimizer.accumulate", "8"),
            "phases.0.batch_size / optimizer.accumulate is 1, which the 2 devices",
        ),
        (("--mesh.devices", "2", "--num-seeds", "2"), "seeds side by side run on one device"),
        (("--coordinator", "localhost:1"), "but mesh.devices is 1; set --mesh.devices 0"),
        (("--hosts", "2"), "without --coordinator"),
        (
            ("--mesh.devices", "0", "--coordinator", "localhost", "--hosts", "2", "--host", "1"),
            "--coordinator is 'localhost'; give address:port",
        ),
        (
            ("--mesh.devices", "0", "--coordinator", "localhost:1", "--hosts", "2", "--host", "2"),
            "give the number of hosts and which of them this is, from 0",
        ),
        (
            ("--mesh.devices", "0", "--coordinator", "auto", "--hosts", "2"),
            "--coordinator auto takes them from the cluster; leave them out",
        ),
    ],
)
def test_what_can_not_be_spread_is_one_sentence(tmp_path, capsys, arguments, sentence):
    code = cli.main(["train", TINY, *EIGHT, "--run-dir", str(tmp_path / "run"), *arguments])
    assert code == 2
    assert sentence in the_sentence(capsys.readouterr().err)
    assert not (tmp_path / "run" / "config.json").exists()


def test_environments_that_the_devices_do_not_divide():
    config = tiny_policy_config.get_config()
    algorithm = dataclasses.replace(config.algorithm, num_envs=5)
    config = dataclasses.replace(config, algorithm=algorithm, mesh=DeviceMesh(2))
    with pytest.raises(UserError, match=r"algorithm.num_envs is 5, which the 2 devices"):
        config.check_mesh(config.mesh.build())


@pytest.mark.parametrize("retriever", [Hybrid(), Dense(asynchronous=True)])
def test_retrievers_of_one_device(retriever):
    config = dataclasses.replace(tiny_config.get_config(), mesh=DeviceMesh(2))
    mesh = config.mesh.build()
    config = dataclasses.replace(config, retriever=retriever, phases=config.phases[:1])
    with pytest.raises(UserError, match=f"the retriever {type(retriever).__name__} of this config"):
        config.check_mesh(mesh)
    assert Random().on_mesh


def test_a_host_that_does_not_answer():
    address = f"localhost:{free_port()}"
    with pytest.raises(
        UserError, match=f"Host 0 does not answer at --coordinator {address} within"
    ):
        connect(address, 2, 1, wait=0.5)
    with pytest.raises(
        UserError, match=f"Of 3 hosts, 1, 2 did not come to --coordinator {address}"
    ):
        connect(address, 3, 0, wait=0.5)


def met(address, hosts, *numbers, wait=20.0):
    """What each of the hosts with these numbers is told: nothing, or why not."""

    def meet(host):
        try:
            others = _meet("localhost", int(address.partition(":")[2]), hosts, host, wait)
            assert set(others) == ({0} if host else set(range(1, hosts)))
        except UserError as error:
            return str(error)
        for connection in others.values():
            connection.close()
        return None

    with ThreadPoolExecutor() as threads:
        return list(threads.map(meet, numbers))


def test_hosts_meet_whoever_comes_first():
    address = f"localhost:{free_port()}"
    assert met(address, 3, 2, 0, 1) == [None] * 3
    assert met(address, 2, 1, 0) == [None] * 2  # on the same port again


def test_two_hosts_of_one_number():
    address = f"localhost:{free_port()}"
    first, *others = met(address, 4, 0, 1, 1, wait=2.0)
    assert "--host 1 is given on two hosts" in first
    assert all("Host 0 does not answer" in other for other in others)


def test_a_stranger_at_the_port_is_no_host():
    address = f"localhost:{free_port()}"
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(met, address, 2, 0)
        for said in (b"GET / HTTP/1.1\r\n", b"7\n", b""):
            while True:
                try:
                    stranger = socket.create_connection(("localhost", int(address[10:])), timeout=5)
                    break
                except OSError:
                    assert not waiting.done()
            stranger.sendall(said)
            stranger.close()
        assert met(address, 2, 1) == [None]
        assert waiting.result() == [None]


def test_what_is_said_of_devices():
    assert mesh_notes(None) == ["1 of 2 devices used; mesh.devices says how many"]
    notes = mesh_notes(DeviceMesh(0).build())
    assert len(notes) == (IN_ORDER not in os.environ.get("XLA_FLAGS", ""))
    assert all(IN_ORDER in note for note in notes)
    assert DeviceMesh().build() is None
    assert DeviceMesh(2).build().devices.tolist() == jax.devices()[:2]


def test_a_config_written_before_there_was_a_mesh():
    config = tiny_config.get_config()
    value = to_json(config)
    del value["mesh"]
    modules = {"tiny_task": str(SUPPORT / "tiny_task.py")}
    assert from_json(value, modules).mesh == DeviceMesh()


def test_parts_of_a_batch_are_dealt_out_again():
    """Without that every device computes each micro-batch, and each shuffled minibatch, as a whole."""
    config = dataclasses.replace(tiny_policy_config.get_config(), mesh=DeviceMesh(2))
    learner, mesh = config.create(), config.mesh.build()
    place = Placement(config.mesh, mesh, learner)
    rows = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)

    def parts_of(spread):
        def total(rows, order):
            return jnp.tanh(spread(rows[order]) @ rows.T)

        placed = place.feed({"rows": rows})["rows"]
        program = jax.jit(total).lower(placed, np.arange(32)[::-1]).compile().as_text()
        return "f32[16,32]" in program

    assert parts_of(place.spread)
    assert not parts_of(lambda rows: rows)


def test_a_policy_has_its_passages_on_every_device(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 32)
    config = override(
        load_config(Path("lookup/marginal")),
        ["--env.passages", "64", "--env-steps", "20480", "--mesh.devices", "2"],
    )
    learner = config.create()
    program = training_program(learner, [0], config, None, config.mesh.build())
    state = program.place(starting_state(learner, [0]))
    state, metrics = program.advance(state, 0)
    assert np.isfinite(metrics["loss"])
    assert isinstance(state.index.embeddings, jax.Array)


def test_a_policy_whose_index_is_of_one_device():
    config = dataclasses.replace(
        tiny_policy_config.get_config(), policy=RetrievalPolicy(retriever=Dense(index=Scann()))
    )
    with pytest.raises(UserError, match=r"policy.retriever.index works on one device"):
        config.check_mesh(DeviceMesh(2).build())


def test_devices_make_no_run_another(tmp_path):
    """Its name in a sweep, the comparison with other seeds, and the result of one that is resumed."""
    config = tiny_config.get_config()
    spread = dataclasses.replace(config, mesh=DeviceMesh(2))
    assert identity(config) == identity(spread) != identity(dataclasses.replace(config, seed=1))
    assert _without_seed(to_json(config)) == _without_seed(to_json(spread))
    write_config(tmp_path / "config.json", config)
    check_run_dir(spread, tmp_path, resume=True)
    with pytest.raises(UserError, match="differs in log_every"):
        check_run_dir(dataclasses.replace(spread, log_every=7), tmp_path, resume=True)


def test_a_run_that_is_there_is_refused_on_every_host(tmp_path, started):
    """The first host alone looks, and tells the others, which would wait for it."""
    (tmp_path / "config.json").write_text("{}")
    for process in two_hosts(started, tmp_path):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2, errors
        assert "already holds a run" in errors


def test_a_host_with_another_config_does_not_begin(tmp_path, started):
    """Else the two would make different numbers of steps, and wait for each other for ever."""
    address = f"localhost:{free_port()}"
    options = ("--run-dir", str(tmp_path / "run"), "--mesh.devices", "0", "--hosts", "2")
    first, second = (
        run_of(started, *options, "--coordinator", address, "--host", host, *more, devices=1)
        for host, more in (("0", ()), ("1", ("--seed", "3")))
    )
    _, errors = second.communicate(timeout=PATIENCE)
    assert second.returncode == 2, errors
    assert "This host's config is not that of host 0" in errors
    _, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == LOST, errors
    assert "Host 1 was lost (killed, failed" in errors
