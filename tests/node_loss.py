"""Trains two arms on two Ray nodes and kills one node midway; prints the outcome as a line of JSON.

    python tests/node_loss.py NODES [STEPS]

Ray's cluster utility starts a head without cores and NODES nodes of one core, all on this machine.
"""

import json
import logging
import os
import signal
import sys

os.environ["RAY_AUTH_MODE"] = "disabled"  # the nodes are children of this process and end with it
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from processes import raylet_of, workers_of
from ray.cluster_utils import Cluster
from test_restarts import LAYOUT, long_config

from cplmix_ray.data.io.read import read_source
from cplmix_ray.distributed.restarts import train_with_restarts
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.training.events import Evaluated, PlanChanged, Restarted, Snapshot
from cplmix_ray.training.loop import Start


def nodes_of_arms() -> list[int]:
    return sorted({raylet_of(pid) for pid in workers_of(os.getpid(), "ray::TrainingWorker")})


def kill_node_of_last_arm() -> int:
    """Kill a node's raylet and worker at once, as a power loss would; returns the raylet's id."""
    worker = workers_of(os.getpid(), "ray::TrainingWorker")[-1]
    node = raylet_of(worker)
    for pid in (node, worker):
        os.kill(pid, signal.SIGKILL)
    return node


def run(config, data, kill_at: int | None) -> dict:
    seen = {"restarts": 0, "moved": []}
    for event in train_with_restarts(LAYOUT, config, data.training, Start()):
        if isinstance(event, Restarted):
            seen.update(restarts=seen["restarts"] + 1, from_step=event.step, reason=event.reason)
        elif isinstance(event, PlanChanged):
            seen["moved"].append(event.reason)
        elif isinstance(event, Evaluated):
            seen["evaluated"] = event.outputs["log_q_ank"]
        elif isinstance(event, Snapshot):
            seen["arms"], seen["nodes_after"] = event.parts, nodes_of_arms() or seen["nodes_after"]
            if event.step == kill_at:
                seen["nodes_before"], seen["dead_node"] = seen["nodes_after"], kill_node_of_last_arm()
    return seen


def main(nodes: int, steps: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    config = long_config(max_steps=steps)
    data = build_dataset(read_source("digits"), config)
    whole = run(config, data, None)
    killed = run(config, data, 80)
    pairs = [(t, killed["arms"][arm][name]) for arm, ts in whole["arms"].items() for name, t in ts.items()]
    log_q, log_q_killed = (seen["evaluated"] for seen in (whole, killed))
    report = {name: value for name, value in killed.items() if name not in ("arms", "evaluated")}
    report["bitwise"] = all(bool((a == b).all()) for a, b in pairs)
    report["posterior_difference"] = float(abs(log_q - log_q_killed).max())
    report["same_categories"] = bool((log_q.argmax(-1) == log_q_killed.argmax(-1)).all())
    print(json.dumps(report), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 400)
