"""A look into some steps of a training: what each operation took, and when it ran."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

TRACE, TABLE = "trace.json.gz", "operations.txt"
SKIPPED_STEPS, TRACED_STEPS = 3, 10
MOST_ROWS = 40


class StepProfile:
    """Traces the steps after the first few, which are slower than those that follow.

    Inside a `with`, tell it of every step. It leaves two files in the folder: the trace, for
    https://ui.perfetto.dev, and a table of the operations that took longest.

    Args:
        folder: Where to; it is made.
        device: What the steps run on.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._sort = f"self_{device.type}_time_total".replace("cuda", "device")
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._stack = ExitStack()
        self._profile = profile(
            activities=activities,
            # The step after those that are skipped warms the profiler up.
            schedule=schedule(wait=SKIPPED_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(self._profile)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def step(self) -> None:
        """A step has ended."""
        self._profile.step()

    def _write(self, done: profile) -> None:
        table = done.key_averages().table(
            sort_by=self._sort, row_limit=MOST_ROWS, max_name_column_width=60
        )
        (self._folder / TABLE).write_text(table, encoding="utf-8")
        done.export_chrome_trace(str(self._folder / TRACE))
