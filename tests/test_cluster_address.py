"""Addresses of Ray clusters: which one a run joins, and a sentence within seconds for those that cannot be joined."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from cplmix_ray.distributed import cluster_address as module
from cplmix_ray.distributed.cluster_address import cluster_address, reachable_address
from cplmix_ray.utils.errors import InputError

HERE = get_node_ip_address()


@pytest.mark.parametrize(
    ("setting", "variable", "joined"),
    [
        (None, None, None),
        (None, "", None),
        (None, "10.0.0.5:6379", "10.0.0.5:6379"),
        (None, "auto", "auto"),
        (None, "local", None),
        ("local", "10.0.0.5:6379", None),
        ("auto", None, "auto"),
        ("auto", "10.0.0.5:6379", "10.0.0.5:6379"),
        ("10.0.0.6:6379", "10.0.0.5:6379", "10.0.0.6:6379"),
    ],
)
def test_the_setting_goes_before_the_variable(setting, variable, joined, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_address(setting) == joined


def refused(address: str, *words: str) -> str:
    """The sentence for an address that cannot be joined."""
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        reachable_address(address)
    assert time.monotonic() - begun < 15
    sentence = str(error.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    "address",
    [
        "http://10.0.0.5:8265",
        "ray://10.0.0.5:10001",
        "10.0.0.5",
        "10.0.0.5:",
        ":6379",
        "10.0.0.5:x",
        "a:0",
        "a:70000",
        " ",
    ],
)
def test_what_is_no_address(address):
    refused(address, f"'{address}'", "--ray-address", "RAY_ADDRESS", "host:port")


def free_port() -> int:
    with socket.create_server((HERE, 0)) as server:
        return server.getsockname()[1]


def test_where_nothing_listens():
    port = free_port()
    refused(f"{HERE}:{port}", f"{HERE}:{port}", "refused", "RAY_ADDRESS")
    refused(f"localhost:{port}", f"{HERE}:{port}", "refused")  # a cluster is known by the address that others see


def test_a_host_of_no_such_name(monkeypatch):
    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    refused("nowhere:6379", "nowhere:6379", "Name or service not known")


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """A server that gives an answer to everybody, or none at all."""
    with socket.create_server((HERE, 0)) as listener:

        def serve() -> None:
            kept = []
            while True:
                try:
                    kept.append(listener.accept()[0])
                    if answer is not None:
                        kept[-1].recv(1000)
                        kept[-1].sendall(answer)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"{HERE}:{listener.getsockname()[1]}"


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"?"])
def test_where_something_else_listens(answer):
    with server(answer) as address:
        refused(address, address, "no Ray cluster")


def test_where_somebody_listens_and_never_answers(monkeypatch):
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.3)
    with server(None) as address:
        refused(address, address, "timed out")


def test_a_cluster_is_joined_by_each_of_its_names(ray_cluster):
    address = ray_cluster.get_runtime_context().gcs_address
    assert reachable_address(address) == address
    assert reachable_address(address.replace(HERE, "localhost")) == address


def test_auto_tries_what_ray_start_has_noted_and_then_what_runs(ray_cluster, monkeypatch, tmp_path):
    address = ray_cluster.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: {address})
    assert reachable_address("auto") == address
    noted = tmp_path / "ray" / "ray_current_cluster"
    noted.parent.mkdir()
    noted.write_text(f"{HERE}:{free_port()}")  # of a cluster that has ended
    assert reachable_address("auto") == address
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    refused("auto", noted.read_text(), "refused")
    noted.unlink()
    refused("auto", "no Ray cluster on this machine")


TRY = "import sys; from cplmix_ray.distributed import ray_init; print(ray_init.reachable_address(sys.argv[1]))"


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_missing_or_wrong_token_is_named(ray_cluster, token, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "HOME": str(tmp_path), **({} if token is None else {"RAY_AUTH_TOKEN": token})}
    command = [sys.executable, "-c", TRY, ray_cluster.get_runtime_context().gcs_address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr and "RAY_AUTH_MODE=disabled" in done.stderr
    before, _, after = done.stderr.partition("Traceback")
    assert before == "" and "InputError" in after  # nothing from Ray itself
    assert not any(Path(tmp_path).rglob("*"))


def test_a_machine_outside_the_cluster(ray_cluster, monkeypatch):
    monkeypatch.setattr("psutil.process_iter", lambda fields: iter(()))
    refused(ray_cluster.get_runtime_context().gcs_address, "This machine is no part", "ray start")
