"""What a person sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from statistics import fmean

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from imgrec.config import Arch, Config
from imgrec.data.encoded import EncodedImages
from imgrec.distributed.demand import TrialDemand
from imgrec.distributed.events import (
    ProgressEvent,
    SearchEvent,
    Started,
    Step,
    TrialEnded,
    TrialEpoch,
    TrialStarted,
)
from imgrec.training.loop import EpochReport
from imgrec.training.metrics import MONITOR
from imgrec.training.spec import FitSpec
from pipelines.cli.pages.rows import Row
from pipelines.formats import cores_in_words, duration, shown, size
from pipelines.logs import own_stderr
from pipelines.observer import Observer
from pipelines.prepare import Prepared
from pipelines.results import TrainedModel
from pipelines.searched import Searched

SECONDS_BETWEEN_LINES = 5.0
STAGES = {
    "tracking": "opening the record of runs",
    "data": "looking at the pictures",
    "ray": "starting Ray",
    "pace": "measuring how fast the workers train",
    "search": "starting the processes of the trials",
    "confirm": "confirming the best trials with other seeds",
    "train": "starting the first workers",
    "compare": "comparing the models",
    "examine": "examining the models for the report",
}


class LiveTable(Observer):
    """Shows a run on standard error, so that standard output stays for the result.

    Args:
        quiet: Show nothing.
        began: When the command did, by `time.monotonic`; now, if nothing is said.
    """

    def __init__(self, *, quiet: bool = False, began: float | None = None) -> None:
        self._stream = own_stderr()
        self.console = Console(file=self._stream, quiet=quiet, highlight=False)
        self._rows: dict[str, Row] = {}
        self._status = ""
        self._status_share: float | None = None
        self._started = time.monotonic() if began is None else began
        self._printed = self._started
        self._live = (
            Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=8,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            if self.console.is_terminal and not quiet
            else None
        )
        if self._live:
            self._live.start()

    def close(self) -> None:
        """Leave the screen as it is."""
        if self._live:
            self._status = ""
            self._live.stop()
        if self._stream is not sys.stderr:
            self._stream.close()

    def stage(self, name: str) -> None:
        """A part of the run begins."""
        self._say(STAGES[name])

    def note(self, text: str) -> None:
        """Something that is worth a line."""
        self._line(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """How far something is."""
        text = f"{what}: {done:,} of {total:,}"
        if self._live:
            self._say(text, done / total)
            return
        now = time.monotonic()
        if done == total or now - self._printed > SECONDS_BETWEEN_LINES:
            self._printed = now
            self._line(text)

    def prepared(self, prepared: Prepared) -> None:
        """The data are known: say what was found, and what was chosen for the user."""
        store, splits = prepared.store, prepared.splits
        height, width, channels = store.image_shape
        counts = f"{len(splits.train):,} train, {len(splits.val):,} val, {len(splits.test):,} test"
        self._line(
            f"data: {len(store.labels):,} pictures, {len(store.class_names)} classes "
            f"({counts}); data.image_size {height} x {width}, {'RGB' if channels == 3 else 'grey'}"
            f"{', kept as JPEG' if isinstance(store.images, EncodedImages) else ''}"
        )
        for line in (*prepared.findings.understood(), *splits.notes):
            self._line(f"data: {line}")
        setting = next(iter(prepared.specs.values())).data.depth
        if said := store.about_depth(setting):
            self._line(f"data: {said}")
        for note in prepared.notes:
            self._line(note)
        for problem in prepared.findings.problems:
            if problem.level == "warning":
                self._line(f"data: {problem.text}")
        if store.quarantined:
            self._line(f"data: what was left out is listed in {store.quarantine_file}")

    def settled(self, specs: Mapping[Arch, FitSpec]) -> None:
        """What each architecture is going to be trained with."""
        self._rows |= {arch: Row(spec) for arch, spec in specs.items()}

    def searching(self, config: Config, tried: Mapping[Arch, int]) -> None:
        """Searches begin: say how they share what there is."""
        search = config.search
        now = time.monotonic()
        for arch, trials in tried.items():
            row = self._rows[arch]
            row.state, row.most_trials = "searching", search.trials
            row.trials = row.trials_before = trials
            row.search_began = now
            row.search_ends = now + search.budget if search.budget else 0.0
            if trials:
                self._line(f"{arch}: the search goes on after {trials} trials")
        parts = []
        if search.trials:
            parts.append(f"{search.trials} trials for each of {', '.join(tried)}")
        if search.budget:
            each = duration(search.budget / len(config.archs))
            whole = duration(search.budget)
            parts.append(f"at most {whole}, {each} for each of {', '.join(tried)}")
        self._line(f"search: {'; '.join(parts)}; the first trial of each is its defaults")

    def resources(self, demand: TrialDemand, checkpoint_bytes: int) -> None:
        """What the search will hold of the cluster and of the disk."""
        holds = cores_in_words(demand.cpus)
        holds += f" and {demand.gpus:g} GPU" if demand.gpus else ""
        at_a_time = f"{demand.room} trials at a time" if demand.room > 1 else "one trial at a time"
        self._line(
            f"search: {at_a_time}, {holds} each; checkpoints at most {size(checkpoint_bytes)}"
        )

    def trial(self, arch: Arch, event: SearchEvent) -> None:
        """Something happened to a trial."""
        row = self._rows[arch]
        self._status = ""
        match event:
            case TrialStarted(number=number):
                if number in row.running:
                    self._line(f"{arch}: a process of trial {number} died; the trial goes on")
                row.running.setdefault(number, 0)
            case TrialEpoch(number=number, epoch=epoch, metrics=metrics):
                row.running[number] = epoch
                row.metrics = metrics
            case TrialEnded(trial=trial, best=best):
                row.running.pop(trial.number, None)
                row.trials += 1
                if best:
                    row.best = trial.score
                if trial.state == "failed":
                    reason = trial.reason.strip().splitlines()[-1]
                    self._line(f"{arch}: trial {trial.number} failed: {reason}")
        now = time.monotonic()
        if not self._live and row.trials and now - row.printed > SECONDS_BETWEEN_LINES:
            row.printed = now
            of = f"/{row.most_trials}" if row.most_trials else ""
            self._line(
                f"{arch}: {row.trials}{of} trials, best val macro-F1 {row.best:.4f}, "
                f"{row.left} left"
            )

    def searched(self, arch: Arch, result: Searched) -> None:
        """A search is over: what was tuned, beside the default that it replaces."""
        row = self._rows[arch]
        row.state = "waiting"
        default = "" if result.default is None else f", defaults {result.default:.4f}"
        failed = f", {result.failed} failed" if result.failed else ""
        saved = f"{result.steps_saved:.0%} of their epochs saved by stopping early"
        self._line(
            f"{arch}: {result.trials} trials{failed}, {saved}; best val macro-F1 "
            f"{result.best.score:.4f} (trial {result.best.number}){default}"
        )
        for number, scores in result.confirmed.items():
            what = f"trial {number}" if number else "the defaults"
            self._line(f"{arch}: {what} with other seeds: {fmean(scores):.4f}")
        if not result.tuned:
            self._line(f"{arch}: no trial was better than the defaults")
        for key, (before, after) in result.tuned.items():
            self._line(f"{arch}:   {key} = {shown(after)} (default {shown(before)})")

    def taken(self, searches: Mapping[Arch, Searched], models: Mapping[Arch, TrainedModel]) -> None:
        """What the record has already."""
        for arch, search in searches.items():
            self._line(
                f"{arch}: search taken from the record: {search.trials} trials, best val macro-F1 "
                f"{search.best.score:.4f} (run {search.run_id[:12]})"
            )
        for arch, model in models.items():
            self._rows[arch].state = "on record"
            self._line(
                f"{arch}: model taken from the record: {model.registered_model} version "
                f"{model.version} (run {model.run_id[:12]})"
            )

    def will_train(self, specs: Mapping[str, FitSpec]) -> None:
        """An architecture is to be trained, with these settings, which differ by the seed."""
        self._rows |= {name: Row(spec) for name, spec in specs.items()}
        arch, spec = next(iter(specs.items()))
        passes = spec.train.epochs - spec.probe_epochs
        how = f"batch {spec.train.batch_size}, {spec.train.optimizer}, augmentation: {spec.augmentation}"
        passed = "1 epoch" if passes == 1 else f"{passes} epochs"
        if not spec.weights:
            self._line(f"{arch}: {passed}, {how}")
        elif passes:
            self._line(f"{arch}: the last layer on frozen features; then {passed}, {how}")
        else:
            vain = "; train.cuda_graphs has no effect on that" if spec.train.cuda_graphs else ""
            self._line(
                f"{arch}: the last layer on frozen features, and no more (train.finetune){vain}"
            )
        if spec.filters:
            self._line(f"{arch}: filters: {', '.join(one.filter for one in spec.filters)}")
        if spec.train.imbalance != "none":
            most, least = max(spec.class_counts), min(spec.class_counts)
            self._line(
                f"{arch}: train.imbalance = {spec.train.imbalance} (classes of {least:,} to {most:,})"
            )

    def trained_already(self, name: str) -> None:
        """The best trial, or a run that was interrupted, has trained this one to the end."""
        self._rows[name].epoch = self._rows[name].spec.train.epochs
        self._line(f"{name}: trained to the end already; nothing to repeat")

    def worker(self, name: str, event: ProgressEvent) -> None:
        """Something came from the workers."""
        row = self._rows[name]
        self._status = ""
        match event:
            case Started(epochs_done=done):
                if row.state == "training" and event.shortages > row.shortages:
                    without = ", without CUDA graphs" if row.spec.train.cuda_graphs else ""
                    self._line(
                        f"{name}: memory ran out; going on from epoch {done} with a batch in "
                        f"{event.parts} parts{without}"
                    )
                elif row.state == "training":
                    self._line(f"{name}: a worker died; going on from epoch {done}")
                elif done:
                    self._line(f"{name}: going on after epoch {done}, which was trained before")
                epoch = max(row.epoch, done) if row.state == "training" else done
                row.state, row.epoch, row.step = "training", epoch, 0
                row.shortages = event.shortages
                workers = f"{event.workers} worker{'s' if event.workers > 1 else ''}"
                if event.decoders:
                    workers += f", each with {event.decoders} more to decode pictures"
                self._line(f"{name}: training on {workers}, {event.device}, {event.precision}")
            case Step(epoch=epoch, step=step):
                if epoch == row.epoch + 1:
                    row.step = step
            case EpochReport():
                row.epoch, row.step = event.epoch, 0
                row.metrics, row.epoch_seconds = event.metrics, event.metrics["epoch_seconds"]
                if event.best:
                    row.best = event.metrics[MONITOR]
        self._print_progress(name, row)

    def evaluating(self, name: str) -> None:
        """This one is trained; the test split is next."""
        self._rows[name].state = "evaluating"

    def registered(self, model: TrainedModel) -> None:
        """An architecture is done."""
        for row in self._rows.values():
            if row.spec.model.arch == model.arch and row.state != "failed":
                row.state = "registered"
        kept = "; champion" if model.champion else f"; {model.why_not}"
        self._line(
            f"{model.arch}: test accuracy {model.test.accuracy:.4f}, registered as "
            f"{model.registered_model} version {model.version}{kept}"
        )

    def failed(self, name: str, error: Exception) -> None:
        """An architecture, or one of its seeds, ended without a model."""
        self._rows[name].state = "failed"
        self._line(f"{name}: failed: {error}")

    def _say(self, status: str, share: float | None = None) -> None:
        """What is going on right now: replaced on a terminal, a line elsewhere."""
        if self._live:
            self._status, self._status_share = status, share
        else:
            self._line(status)

    def _line(self, text: str) -> None:
        clock = f"{time.monotonic() - self._started:6.1f} s  "
        self.console.print(Text(clock, style="dim") + Text(text, style="not dim"), soft_wrap=True)

    def _print_progress(self, name: str, row: Row) -> None:
        now = time.monotonic()
        if self._live or not row.share or now - row.printed < SECONDS_BETWEEN_LINES:
            return
        row.printed = now
        text = f"{name}: epoch {row.epoch}/{row.spec.train.epochs}"
        if row.step:
            share = row.step / row.spec.steps_per_epoch
            text = f"{name}: epoch {row.epoch + 1}/{row.spec.train.epochs}, {share:.0%} of it"
        if row.metrics:
            loss, score = row.metrics["train/loss"], row.metrics[MONITOR]
            text += f", train loss {loss:.3f}, val macro-F1 {score:.4f}, {row.left} left"
        self._line(text)

    def _render(self) -> Table:
        grid = Table.grid()
        if any(row.state != "waiting" for row in self._rows.values()):
            grid.add_row(self._table())
        if self._status:
            grid.add_row(self._status_line())
        return grid

    def _status_line(self) -> Table:
        line = Table.grid(padding=(0, 2, 0, 0))
        cells: list[RenderableType] = [Text(f"         {self._status} ...", style="cyan")]
        if self._status_share is not None:
            cells.append(ProgressBar(total=1.0, completed=self._status_share, width=40))
        line.add_row(*cells)
        return line

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for title in ("", "stage", "epoch", "", "train loss", "val macro-F1", "best", "time left"):
            table.add_column(title, justify="left" if title in {"", "stage"} else "right")
        for name, row in self._rows.items():
            metrics = row.metrics
            style = {"registered": "green", "on record": "green", "failed": "red"}.get(row.state)
            place = f"{row.epoch}/{row.spec.train.epochs}"
            if row.state == "searching":
                of = f"/{row.most_trials}" if row.most_trials else ""
                place = f"trial {row.trials}{of}"
            table.add_row(
                Text(name, style="bold"),
                Text(row.state, style=style or ""),
                place,
                ProgressBar(total=1.0, completed=row.share, width=24),
                f"{metrics['train/loss']:.3f}" if metrics else "",
                f"{metrics[MONITOR]:.4f}" if metrics else "",
                f"{row.best:.4f}" if metrics else "",
                row.left,
            )
        return table
