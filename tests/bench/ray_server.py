"""One model by Ray Serve: python -m tests.bench.ray_server FOLDER PORT."""

import sys
import time

import ray
from ray import serve

import imgrec.distributed  # noqa: F401 - what Ray reads when it is imported
from pipelines.serve import Arguments, build

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
serve.run(
    build(Arguments(models=[sys.argv[1]], without_token=True)),
    logging_config={"log_level": "ERROR", "enable_access_log": False},
)
while True:
    time.sleep(60)
