"""Training on Ray. The only package that imports it.

Ray reads these when it is imported, so they are set here, before any module of the package does.
What the user has set stays. A process of Ray's that works for us comes here first.
"""

import os

from imgrec.machine import MEMORY_KEPT, collect_seldom, keep_memory

collect_seldom()
keep_memory()
for _name, _value in {
    # Ray Train's controller polls its workers this often; `report` waits for it (default 2 s),
    # and every poll takes time from a worker that computes with all cores.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.4",
    # Ray's own default is 15: beside any program of the usual 0 that keeps the cores busy, and beside
    # Ray's own processes, a worker gets next to nothing.
    "RAY_worker_niceness": "0",
    # A local Ray's own guard would kill a worker before memory is full, and leave no trace that it was for
    # memory. The system's leaves one (`machine.memory_kills`), and takes Ray's workers first.
    "RAY_memory_monitor_refresh_ms": "0",
    # Not read by us, and a thread more at every start.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A late call after Ray went down would start another.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Tune would write every result to three kinds of files; MLflow is the record.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ray's own progress tables would write over ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Under `uv run` Ray would build the environment anew for every local session.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Trials and groups of workers compute in threads of processes that have had others.
    **MEMORY_KEPT,
}.items():
    os.environ.setdefault(_name, _value)
