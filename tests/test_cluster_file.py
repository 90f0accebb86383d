"""The cluster files against Ray's own schema, and the promises made about them."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
AWS, OWN = "cluster.yaml", "cluster_local.yaml"


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def prepared(cluster):
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(cluster)


def ray_commands(cluster, *words):
    """All commands of the file that run Ray, defaults included, that have the words in them."""
    full = prepared(cluster)
    listed = [command for field, commands in full.items() if field.endswith("_commands") for command in commands]
    runs_ray = [command for command in listed if re.search(r"\bray (start|stop)", command)]
    return [command for command in runs_ray if all(word in command for word in words)]


@pytest.fixture(params=[AWS, OWN])
def cluster(request):
    return read(request.param)


def test_ray_accepts_the_file_without_asking_the_cloud(cluster):
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared(cluster))
    assert "boto3" not in sys.modules


@pytest.mark.parametrize("section", [None, "gpu_worker"])
def test_ray_refuses_an_unknown_name(cluster, section):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    full = prepared(cluster)
    types = full["available_node_types"]
    (full if section is None else types.get(section, types[full["head_node_type"]]))["max_wokers"] = 3
    with pytest.raises(ValidationError, match="max_wokers"):
        validate_config(full)


def test_the_dashboard_is_for_the_head_alone(cluster):
    (head,) = ray_commands(cluster, "ray start", "--head")
    assert "--dashboard-host=127.0.0.1" in head.split()
    assert "0.0.0.0" not in str(prepared(cluster))


def test_no_ray_without_token(cluster):
    assert len(ray_commands(cluster, "ray start")) == 2
    for command in ray_commands(cluster):
        assert "RAY_AUTH_MODE=token" in command.split()
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_head_and_workers_meet_at_one_port_and_report_nothing(cluster):
    head, worker = ray_commands(cluster, "ray start")
    assert "--port=6379" in head.split()
    assert "--address=$RAY_HEAD_IP:6379" in worker.split()
    for command in (head, worker):
        assert "--disable-usage-stats" in command.split()


def test_the_mounted_package_is_installed_and_its_python_is_what_jobs_find(cluster):
    (folder,) = [there for there, here in cluster["file_mounts"].items() if here == "."]
    for setup in (prepared(cluster)["head_setup_commands"], prepared(cluster)["worker_setup_commands"]):
        (install,) = [command for command in setup if "[cluster]" in command]
        pip, source = re.fullmatch(r'~/(\S+)/bin/pip install "\$HOME/(\S+)\[cluster\]"', install).groups()
        assert f"~/{source}" == folder
        assert f"python3 -m venv ~/{pip}" in setup[: setup.index(install)]
    for command in ray_commands(cluster, "ray start"):
        assert f"PATH=$HOME/{pip}/bin:$PATH" in command.split()


def test_only_the_code_travels(cluster):
    assert ".git" in cluster["rsync_exclude"]
    assert cluster["rsync_filter"] == [".gitignore"]


def test_resources_are_whole_numbers(cluster):
    for node_type in prepared(cluster)["available_node_types"].values():
        assert all(type(count) is int for count in node_type["resources"].values())


def test_on_aws_the_head_drives_and_runs_no_arm():
    full = prepared(read(AWS))
    head = full["available_node_types"][full["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_on_aws_spot_workers_come_when_needed_and_go():
    full = prepared(read(AWS))
    worker = full["available_node_types"]["gpu_worker"]
    assert worker["resources"]["GPU"] == 1
    assert worker["min_workers"] == 0
    assert 2 <= worker["max_workers"] <= full["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 < full["idle_timeout_minutes"] <= 10


def test_on_aws_ray_opens_no_door_of_its_own():
    """Ray adds ssh from everywhere to any group that it makes, so the groups are named for every machine."""
    cluster = read(AWS)
    assert "security_group" not in cluster["provider"]
    for node_type in cluster["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"]


def test_on_aws_the_head_can_start_workers():
    assert any("pip install boto3" in command for command in prepared(read(AWS))["head_setup_commands"])


def test_own_machines_all_take_part():
    full = prepared(read(OWN))
    workers = full["provider"]["worker_ips"]
    (machine,) = full["available_node_types"].values()
    assert machine["min_workers"] == machine["max_workers"] == len(workers)
    (head,) = ray_commands(full, "ray start", "--head")
    assert "RAY_enable_autoscaler_v2=0" in head.split()
