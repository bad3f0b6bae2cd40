"""The application on Ray Serve on two nodes, behind nginx: a replica is killed under load, and every request gets its picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guides" / "scale.md").read_text("utf-8")

SCRIPT = """
import json, os, signal, socket, subprocess, sys, threading, time, urllib.request
import psutil, ray
from ray import serve
from ray.cluster_utils import Cluster
import ray_serve

def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

nginx, folder, model, config = sys.argv[1:]
port, front = free_port(), free_port()
memory = 100 * 2**20
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": memory})
cluster.add_node(num_cpus=1, object_store_memory=memory)  # there is room for one replica on each node
ray.init(address=cluster.address, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(ray_serve.build({"models": model, "replicas": "2", "cpus": "1"}))
with open(os.path.join(folder, "nginx.conf"), "w", encoding="utf-8") as file:
    inner = config.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("listen 8080", f"listen 127.0.0.1:{front}")
    file.write("pid nginx.pid; events {} http { access_log off;" + inner + "}")
owner = "user root;" if os.geteuid() == 0 else ""
proxy = subprocess.Popen([nginx, "-e", "stderr", "-p", folder, "-c", "nginx.conf", "-g", f"daemon off; {owner}"])
try:
    def draw(seed, to):
        body = json.dumps({"captions": ["the digit three is at the top of the digit one"], "seed": seed, "samples": 4}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{to}/v1/draw", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.dumps(json.load(answer)["results"])

    replicas = [each for each in psutil.process_iter(["cmdline"]) if "".join(each.info["cmdline"] or ()).startswith("ray::ServeReplica")]
    assert len(replicas) == 2, replicas
    assert "CPU" not in ray.available_resources(), "both nodes are full"
    alone = draw(0, port)
    pictures, seconds, errors = {}, {}, []

    def client(number):
        try:
            start = time.monotonic()
            pictures[number] = draw(number % 4, front)
            seconds[number] = time.monotonic() - start
        except Exception as error:
            errors.append(repr(error))

    # 160 pictures: the remaining replica queues at most 256, and refuses more with 503
    clients = [threading.Thread(target=client, args=(number,)) for number in range(40)]
    for each in clients:
        each.start()
    while not pictures and not errors:
        time.sleep(0.01)
    replicas[0].send_signal(signal.SIGKILL)
    before = len(pictures)
    for each in clients:
        each.join()
    print(json.dumps({"before": before, "pictures": len(pictures), "errors": errors, "distinct": len(set(pictures.values())),
                      "same": pictures.get(0) == alone, "seconds": round(max(seconds.values()), 1)}))
finally:
    proxy.terminate()
    proxy.wait()
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
def test_killed_replica_loses_no_request(tmp_path):
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    config = GUIDE.split("```nginx\n")[1].split("```")[0]
    waits = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60", "RAY_worker_niceness": "0"}
    path = os.pathsep.join([str(ROOT / "deploy"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, nginx, str(tmp_path), "aligndraw-mnist", config],
        env={**os.environ, **waits, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    print(result)
    assert '"pictures": 40, "errors": [], "distinct": 4, "same": true' in result
