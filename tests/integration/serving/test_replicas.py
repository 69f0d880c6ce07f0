"""The server under Ray Serve: the same answers, and what happens when a replica dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

from imgrec.machine import free_port
from tests.conftest import ROOT
from tests.integration.serving.made import make_classifier, picture, save

CODE = """
import json, os, signal, sys, threading, time
import imgrec.distributed  # what Ray reads when it is imported
import ray, requests
from ray import serve
from pipelines.serve import Arguments, build

folder, picture, port = sys.argv[1], open(sys.argv[2], "rb").read(), int(sys.argv[3])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
serve.start(http_options={"host": "127.0.0.1", "port": port})
arguments = Arguments(models=[folder], replicas=2, cpus=0.5, without_token=True)
serve.run(build(arguments), name="imgrec", logging_config={"log_level": "ERROR"})
url = f"http://127.0.0.1:{port}/v1/models/animals/predict"
first = requests.post(url, data=picture, timeout=30)
bad = requests.post(url, data=b"no picture", timeout=30)

ends, statuses = threading.Event(), []
def hammer():
    while not ends.is_set():
        try:
            statuses.append((time.monotonic(), requests.post(url, data=picture, timeout=30).status_code))
        except requests.RequestException:
            statuses.append((time.monotonic(), 0))
threads = [threading.Thread(target=hammer) for _ in range(4)]
for thread in threads:
    thread.start()
time.sleep(2)
import psutil
def living():
    found = set()
    for one in psutil.Process().children(recursive=True):
        try:
            if any("ServeReplica" in word for word in one.cmdline()):
                found.add(one.pid)
        except psutil.Error:
            pass
    return found
replicas = living()
killed = time.monotonic()
os.kill(min(replicas), signal.SIGKILL)
alive = 0
while alive < 2 and time.monotonic() - killed < 90:
    time.sleep(0.5)
    deployment = serve.status().applications["imgrec"].deployments["imgrec"]
    alive = deployment.replica_states.get("RUNNING", 0) if living() - replicas else 0
back = time.monotonic() - killed
ends.set()
for thread in threads:
    thread.join()
wrong = [at - killed for at, status in statuses if status != 200]
print(json.dumps({
    "first": first.json(), "bad": [bad.status_code, bad.json()], "asked": len(statuses),
    "wrong": wrong, "replicas": len(replicas), "back": back,
}))
serve.shutdown()
ray.shutdown()
"""


def test_replicas_answer_as_the_server_does_and_one_that_dies_costs_what_it_had(
    tmp_path: Path,
) -> None:
    """Only what was in flight there fails; within a minute there are two again."""
    folder = save(make_classifier(), tmp_path / "animals")
    (tmp_path / "one.png").write_bytes(picture(1))
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(folder), str(tmp_path / "one.png")]
    ended = subprocess.run(
        [*command, str(free_port())],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"RAY_SERVE_LOG_TO_STDERR": "0"},
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (line,) = [one for one in ended.stdout.splitlines() if one.startswith('{"first"')]
    told = json.loads(line)  # Ray writes beside it
    print(line)
    (row,) = told["first"]["predictions"]
    (expected,) = make_classifier().predict([picture(1)])

    assert row["label"] == expected.label
    assert abs(row["probability"] - expected.probability) < 1e-6
    status, reason = told["bad"]
    assert status == 422
    assert "not a picture" in reason["error"]
    assert told["replicas"] == 2
    assert len(told["wrong"]) <= 4  # one for each client at most
    assert told["asked"] > 50
    assert told["back"] < 60
