"""Who can reach a run while it goes on, and what of its secret is left behind."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from cplmix_ray.config.files import parse_config
from cplmix_ray.utils.errors import InputError

TRAIN = "--preset published --engine ray --hidden 24 --bottleneck 8 --batch-size 64 --log-every 5 --evaluate-every 400"


@pytest.fixture
def home():
    """A home of its own, and a folder for Ray's logs; short, as paths of sockets are."""
    folder = Path(tempfile.mkdtemp(prefix="r"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(home: Path, token: str | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"HOME": str(home), "RAY_TMPDIR": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**kept, **own, **({} if token is None else {"RAY_AUTH_TOKEN": token})}


def doors_of(process: subprocess.Popen) -> set[tuple[str, int]]:
    """Addresses at which the process and its descendants listen."""
    found = set()
    with psutil.Process(process.pid).oneshot():
        for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                found |= {(c.laddr.ip, c.laddr.port) for c in each.net_connections("inet") if c.status == "LISTEN"}
            except psutil.Error:
                continue  # it ended meanwhile
    return found


def is_loopback(ip: str) -> bool:
    return ip.removeprefix("::ffff:") == "127.0.0.1" or ip == "::1"


def start(home: Path) -> subprocess.Popen:
    """A run on a Ray of its own, which ends long after it was looked at."""
    line = [*TRAIN.split(), "--max-steps", "40000", "--checkpoint-every", "400"]
    command = [sys.executable, "-m", "cplmix_ray.train", "--out", str(home / "run"), *line]
    return subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def watch(process: subprocess.Popen, out: Path) -> tuple[set[tuple[str, int]], str]:
    """All doors seen until the run is well under way, and the address of Ray's control."""
    seen, control = set(), ""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        seen |= doors_of(process)
        control = control or next((port for port in map(_control_port, _children(process)) if port), "")
        if any(out.glob("checkpoints/step-*")):
            break
        time.sleep(0.1)
    return seen | doors_of(process), control


def _children(process: subprocess.Popen) -> list[str]:
    lines = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            lines.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return lines


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _control_port(line: str) -> str:
    found = re.search(r"--gcs-address[= ](\S+:\d+)", line)
    return found[1] if found else ""


def joins(address: str, home: Path, token: str) -> bool:
    """Whether another process of this machine gets into that Ray."""
    program = f"import ray; ray.init({address!r}, log_to_driver=False); print('joined', ray.cluster_resources())"
    # Else Ray looks for the address that other machines would see.
    here = {**environment(home, token), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=here, capture_output=True, text=True, timeout=120)
    return done.returncode == 0 and "joined" in done.stdout


@pytest.mark.slow
def test_a_run_of_its_own_listens_to_this_machine_alone_asks_for_the_token_and_leaves_it_nowhere(home, fault_row):
    process = start(home)
    try:
        seen, control = watch(process, home / "run")
        assert len(seen) >= 8, seen  # control, node, two workers with store and links
        assert all(is_loopback(ip) for ip, _ in seen), seen
        assert not {8265, 10001} & {port for _, port in seen}
        assert control.startswith("127.0.0.1:")
        (secret_file,) = home.glob("ray-*/auth_token")
        assert secret_file.stat().st_mode & 0o077 == secret_file.parent.stat().st_mode & 0o077 == 0
        secret = secret_file.read_text().strip()
        assert len(secret) >= 32
        assert joins(control, home, secret)
        assert not joins(control, home, secrets.token_hex(32))
        assert process.poll() is None, process.communicate()[0]
        logs = [path for path in files_in(home) if path.suffix in (".log", ".out", ".err")]
        assert len(logs) > 5
        assert [path for path in logs if secret.encode() in path.read_bytes()] == []
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert [path.name for path in home.iterdir()] == ["run"]
    files = files_in(home)
    names = {path.name for path in files}
    assert {"config.yaml", "manifest.json"} <= names and any(name.startswith("events.out") for name in names)
    assert secret not in said
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    searched = len(files) + len(logs)
    made = f"{len(seen)} addresses listened at; another process with another token; {searched} files searched"
    fault_row("doors of a run's own Ray", made, 1, "127.0.0.1 alone, refused, the token in none of them")


@pytest.mark.parametrize("address", ["s3://key:secret@bucket/folder", "s3://key@bucket", "gs://a:b@bucket?region=x"])
def test_credentials_do_not_become_settings(address):
    """Settings are written to config.yaml, to every checkpoint and to the cells."""
    with pytest.raises(InputError, match="credentials") as refused:
        parse_config({"placement": {"train_storage": address}}, "x.yaml")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["s3://bucket/a@b", "/shared/a@b", "s3://bucket"])
def test_an_address_without_credentials_is_taken(address):
    assert parse_config({"placement": {"train_storage": address}}).placement.train_storage == address
