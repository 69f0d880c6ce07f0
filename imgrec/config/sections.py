"""The sections of the settings but those of the data, each with its keys, units and ranges."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from imgrec.config.architectures import ARCHS, Arch
from imgrec.config.filters import Filter
from imgrec.config.section import Duration, Fraction, NonNegative, Section


class PreprocessConfig(Section):
    """What happens to a picture between the store and the model."""

    filters: Annotated[tuple[Filter, ...], Field(strict=False, max_length=8)] = ()
    """Filters for every picture, in training and in serving, in this order: `gaussian`, `median`,
    `bilateral`, `non_local_means` (denoise), `unsharp` (sharpen), `equalize`, `clahe` (contrast),
    `grey`. A name, or a table with its settings: `{filter = "median", size = 5}`."""
    augment: Literal["auto", "photos", "digits", "none"] = "auto"
    """The preset of changes made to training pictures: `photos` (flip, shift; from 20 epochs on,
    erase), `digits` (shift only: a mirrored 2 is no digit), `none`. `auto` takes `photos` for
    colour pictures and `digits` for grey ones. Each part below can be set by itself; its default is
    the preset's."""
    flip: bool | None = None
    """Mirror half of the pictures left to right."""
    flip_vertical: bool | None = None
    """Mirror half of the pictures top to bottom: for pictures without a fixed orientation, such as cells."""
    shift: Annotated[float, Field(ge=0.0, le=0.5)] | None = None
    """Largest shift along each axis, as a share of the side."""
    crop_area: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Take a random part of the picture, of at least this share of its area and with proportions of 3:4 to 4:3
    of its own, and bring it to the model's size; 1 takes the picture as evaluation does."""
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] | None = None
    """Largest rotation to either side, in degrees."""
    color: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Largest change of brightness, contrast and saturation, as a share; of the hue, a quarter of
    it of the colour circle's half."""
    policy: Literal["none", "randaugment", "trivialaugment"] | None = None
    """A drawn choice of 14 changes for each picture: two of middle strength (`randaugment`), or one
    of any strength (`trivialaugment`)."""
    erase: Annotated[float, Field(ge=0.0, le=0.9)] | None = None
    """Side of the erased rectangle as a share of the picture's side; 0 erases nothing."""
    mixup: Annotated[float, Field(ge=0.0, le=10.0)] | None = None
    """Blend pictures, and their labels, in pairs; the share comes from Beta(mixup, mixup)."""
    cutmix: Annotated[float, Field(ge=0.0, le=10.0)] | None = None
    """Paste a rectangle of another picture, labels in proportion; its area comes from
    Beta(cutmix, cutmix). With mixup too, each batch takes the one or the other."""


PROBE_EPOCHS = 1
"""Of a fit that begins with pretrained weights: the first, which trains the last layer alone."""
Finetune = Literal["auto", "probe", "full"]
MOST_OPERATIONS = 5e14
PRETRAINED_ONLY = ("finetune", "layer_decay", "freeze")
"""Training settings of networks that begin with pretrained weights."""
Imbalance = Literal["auto", "none", "weights", "sampler", "focal", "logit_adjustment"]


class TrainConfig(Section):
    """How a model is trained.

    For optimizer, rates, decay, smoothing and clipping an architecture may have defaults of its own
    (`Architecture.train_defaults`).
    """

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Passes over the training split; 0 means about 500,000 pictures, at least 8 and at most 40
    passes. Where a network begins with pretrained weights, the first pass trains its last layer alone, and
    0 means about 20,000 pictures after it, at least 3 and at most 12 passes."""
    budget: Duration = 0.0
    """Time for the training of one model, in seconds or as `90s`, `8m`, `1h30m`. Epochs, and the size of a compact cnn,
    are then chosen by how fast the workers are, which a short measurement tells before training (`choose_pace`); where
    epochs are set too, no more than those. What was chosen is recorded, and holds for whoever goes on with the run. 0
    leaves both to the data alone."""
    batch_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Pictures in one step, over all workers together; 0 means about a fiftieth of the training
    split, a power of two between 64 and 256; with pretrained weights about a two-hundredth, between 32 and
    256."""
    start_size: Annotated[float, Field(ge=0.1, le=1.0)] = 1.0
    """Side of training pictures in the first steps, as a share of data.image_size. It grows to the
    whole, which it is for the last 40 % of the steps; never below 16 pixels. Half of it takes a
    quarter of the time, and early on a network learns as much from it. Not where weights belong to
    places of the picture, as in the ann and an rnn of rows."""
    finetune: Finetune = "auto"
    """What of a network that begins with pretrained weights is trained. The first epoch always trains the last
    layer alone, on features that are computed once (a linear probe); `probe` ends there, `full` goes on with
    the whole network, `auto` decides (`choose_finetune`)."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Learning rate of the first layer of a network that begins with pretrained weights, as a share of the last
    layer's; between them it rises evenly on a logarithmic scale."""
    freeze: Fraction = 0.0
    """Share of the layers of such a network, from the first on, that keep their weights."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """`adamw`, `sgd` (with Nesterov momentum), or `muon` (for the matrices inside the network;
    AdamW trains the rest)."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 1e-3
    """Peak learning rate, reached after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Decoupled weight decay (coupled with `sgd`), on the matrices of layers only: never on biases, norms,
    positions or layer scales."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Momentum of `sgd` (default 0.9) or `muon` (default 0.95, where the
    architecture has none of its own)."""
    warmup: Fraction = 0.1
    """Share of all steps in which the learning rate rises from 0 to its peak."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls from its peak to 0 in the remaining steps."""
    label_smoothing: Fraction = 0.1
    """Share of the target probability that is spread over all classes."""
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Gradients longer than this are scaled down to it; 0 switches clipping off."""
    ema_decay: Fraction = 0.99
    """Decay a step of the moving average of the weights that is evaluated and kept; 0 keeps the
    weights themselves."""
    imbalance: Imbalance = "auto"
    """What is done for rare classes. `none`; `weights`: their pictures count more in the loss;
    `sampler`: they are shown as often as those of frequent ones; `focal`: pictures that are hard
    count more; `logit_adjustment`: the loss asks for a margin that is larger for rare classes.
    `auto` decides from the counts (`choose_imbalance`)."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Arithmetic of the training step; `auto` takes bf16 where the device computes it faster, and fp16 on GPUs that know
    no bf16 (T4, V100)."""
    cuda_graphs: bool = False
    """Whether the steps of a network are captured as CUDA graphs and replayed as a whole, rather than kernel by kernel:
    faster where the network is small for its GPU. Needs one worker a model, on an NVIDIA GPU, and fp32 or bf16; of a batch that
    fits into memory in parts alone, steps are not captured. Not the default, for no GPU was at hand to measure it on."""

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> Self:
        if self.optimizer == "adamw" and self.momentum is not None:
            msg = "momentum has no effect with optimizer = 'adamw'"
            raise ValueError(msg)
        if self.optimizer == "muon" and self.layer_decay < 1:
            msg = "layer_decay has no effect with optimizer = 'muon'"
            raise ValueError(msg)
        if self.budget and self.finetune == "probe":
            msg = "budget has no effect with finetune = 'probe', which has one epoch"
            raise ValueError(msg)
        if self.cuda_graphs and self.finetune == "probe":
            msg = "cuda_graphs has no effect with finetune = 'probe', which has no steps"
            raise ValueError(msg)
        if self.cuda_graphs and self.precision == "fp16":
            msg = "cuda_graphs needs precision = 'bf16' or 'fp32': in fp16 a step waits for the GPU"
            raise ValueError(msg)
        return self

    def resolved(
        self, class_counts: Sequence[int], operations: float | None = None, *, on_gpu: bool = False
    ) -> "TrainConfig":
        """These settings with what they leave to the data chosen.

        Args:
            class_counts: Training pictures of each class.
            operations: Of a network that begins with pretrained weights, to train it on one picture.
            on_gpu: Whether it is trained there.
        """
        num_train = sum(class_counts)
        finetune = self.finetune
        if operations is not None:
            batch_size = min(256, max(32, 1 << (num_train // 200).bit_length()))
            epochs = PROBE_EPOCHS + min(12, max(3, round(20_000 / num_train)))
            wanted = (self.epochs or epochs) - PROBE_EPOCHS
            finetune = choose_finetune(finetune, operations * wanted * num_train, on_gpu=on_gpu)
        else:
            batch_size = min(256, max(64, 1 << (num_train // 50).bit_length()))
            epochs = min(40, max(8, round(500_000 / num_train)))
        epochs = self.epochs or epochs
        return self.model_copy(
            update={
                "batch_size": min(self.batch_size or batch_size, num_train),
                "epochs": PROBE_EPOCHS if finetune == "probe" else epochs,
                "finetune": finetune,
                "imbalance": choose_imbalance(self.imbalance, class_counts),
            }
        )


def choose_finetune(wanted: Finetune, operations: float, *, on_gpu: bool) -> Finetune:
    """What of a network with pretrained weights is trained, where the settings leave it open.

    The rule: the whole network (`full`) on GPUs, and on CPUs as long as it takes at most 5e14 operations, ten
    times those of EfficientNet-Lite0 on 3,068 photos (4 to 7 minutes on two cores, docs/results.md); else the last
    layer alone (`probe`).
    """
    if wanted != "auto":
        return wanted
    return "full" if on_gpu or operations <= MOST_OPERATIONS else "probe"


def choose_imbalance(wanted: Imbalance, class_counts: Sequence[int]) -> Imbalance:
    """What is done for rare classes, where the settings leave it to the data.

    The rule: `none` while the largest class has less than twice the pictures of the smallest, for
    then there is nothing to gain; `logit_adjustment` from there on. It was the best or within the
    noise of the best on long-tailed CIFAR-10 (docs/results.md), and costs nothing.
    """
    if wanted != "auto":
        return wanted
    return "none" if max(class_counts) < 2 * min(class_counts) else "logit_adjustment"


class PretrainedConfig(Section):
    """Where pretrained weights come from, and which may be used."""

    folder: str = ""
    """Folder with weights, on a cluster one that every node sees: `NAME.safetensors`, or a folder NAME as the
    Hugging Face hub has it. It is looked into before the hub."""
    allow_noncommercial: bool = False
    """Use weights whose licence does not allow commercial use."""

    @field_validator("folder")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return str(Path(value).expanduser().absolute()) if value else ""


class CalibrateConfig(Section):
    """What a classifier may promise of itself, by the part of the validation split that has chosen nothing."""

    coverage: Annotated[float, Field(ge=0.0, le=0.999)] = 0.95
    """Of prediction sets: the share of all cases in which the set of a picture holds its class. 0 makes no sets."""
    precision: Annotated[float, Field(ge=0.0, le=0.999)] = 0.0
    """Of answers: where the model is not sure enough to have this share of them right, it says "not sure". 0 lets it
    always answer."""


class ReportConfig(Section):
    """What the report of a run looks into."""

    corrupted: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Test pictures that are made noisy, blurred, dark and so on, in 9 kinds and 5 strengths, to see how much worse they
    are recognized. `auto` takes so many that it costs about a twentieth of training (`choose_pictures`); 0 takes none."""


class PromoteConfig(Section):
    """When a new version may take the place of the champion."""

    rule: Literal["better", "not_worse"] = "better"
    """`better`: it recognizes more of the test pictures than chance explains. `not_worse`: it surely recognizes no
    fewer than `margin` allows, for models that are wanted for another reason, such as their size."""
    margin: Annotated[float, Field(ge=0.0, le=0.5)] = 0.01
    """Of `not_worse`: the largest loss of accuracy that may be."""
    recall_margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """No class may surely lose more of its recall than this: a better mean can hide a class that is no longer seen."""
    loss_margin: Annotated[float, Field(ge=0.0)] = 0.02
    """The log loss may not surely rise by more than this, in nats: who acts on probabilities needs them right."""
    most_megabytes: Annotated[float, Field(ge=0.0)] = 0.0
    """The weights may not take more than this on disk; 0 sets no limit."""
    most_milliseconds: Annotated[float, Field(ge=0.0)] = 0.0
    """One picture may not take longer than this on the machine that decides, measured in turns with the champion; 0 sets
    no limit, and nothing is measured."""
    least_pictures: Annotated[int, Field(ge=1)] = 20
    """With fewer test pictures that neither model has learned from, nothing is decided."""


class SearchConfig(Section):
    """How long to search for better settings than the defaults, and with what."""

    trials: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Settings to try for each architecture, its defaults among them. 0 means as many as `budget`
    allows; where that is 0 too there is no search."""
    budget: Duration = 0.0
    """Time for all searches together, in seconds or as `90s`, `10m`, `1h30m`; divided evenly among
    the architectures. 0 means as long as `trials` take."""
    min_epochs: NonNegative = 0
    """Epochs before a trial can be stopped for being worse than others; 0 means a quarter of all."""
    reduction: Annotated[int, Field(ge=2, le=10)] = 4
    """Of the trials that come to min_epochs one in this many goes on, and again at each multiple by
    this number."""
    confirm: Annotated[int, Field(ge=0, le=20)] = 0
    """Other seeds with which the three best trials and the defaults are trained again before one is chosen: the best of
    many trials owes a part of its score to its seed. 0 chooses by the trials alone."""
    workers_per_trial: Annotated[int, Field(ge=1, le=4096)] = 1
    """Training processes of a trial. With one, a trial is the plain loop; with more, each trial
    starts its own workers, which takes 10 s or more."""
    cpus_per_trial: NonNegative = 0
    """Cores for each training process of a trial; 0 means a quarter of a node's, at least one, or
    with GPUs its share of its node's."""
    gpus_per_trial: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of a GPU for each training process of a trial, where there are GPUs: 0.25 lets four
    small models share one."""

    @model_validator(mode="after")
    def _confirms_a_search(self) -> Self:
        if self.confirm and not self.wanted:
            msg = f"confirm = {self.confirm} confirms the trials of a search, and there is none; set trials or budget"
            raise ValueError(msg)
        return self

    @property
    def wanted(self) -> bool:
        """Whether there is to be a search at all."""
        return bool(self.trials or self.budget)


class ServeConfig(Section):
    """How a server of models listens, and what it takes at most."""

    host: str = "127.0.0.1"
    """Address to listen at; beyond this machine only with a token (IMGREC_TOKEN)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes a free one."""
    follow_seconds: Annotated[float, Field(ge=0.1)] = 10.0
    """How often to look whether an alias names another version by now."""
    most_megabytes: Annotated[int, Field(ge=1, le=1024)] = 32
    """Of the body of a request."""
    most_bodies_megabytes: Annotated[int, Field(ge=1)] = 256
    """Of the bodies of all requests at a time."""
    most_pictures: Annotated[int, Field(ge=1, le=4096)] = 64
    """Of a request."""
    most_waiting: Annotated[int, Field(ge=1)] = 512
    """Pictures on their way; with more a request is refused, to be sent again later."""
    most_connections: Annotated[int, Field(ge=1)] = 1024
    """Open at a time."""
    most_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Pictures that a model looks at together."""
    decode_workers: NonNegative = 0
    """Processes that decode; 0 means one a core, or under Ray Serve one for each core of a replica."""
    decode_seconds: Annotated[int, Field(ge=1, le=60)] = 5
    """Processor time that a picture may take to decode."""
    body_seconds: Annotated[float, Field(ge=0.1)] = 30.0
    """In which a request must have come whole."""
    answer_seconds: Annotated[float, Field(ge=0.1)] = 30.0
    """In which a request is answered, or refused."""

    @model_validator(mode="after")
    def _one_body_has_room(self) -> Self:
        if self.most_megabytes > self.most_bodies_megabytes:
            msg = f"most_bodies_megabytes = {self.most_bodies_megabytes}: must be at least most_megabytes, {self.most_megabytes}"
            raise ValueError(msg)
        return self


WorkerCount = Annotated[int, Field(ge=1, le=4096)]


class ClusterConfig(Section):
    """The workers that train, and the Ray cluster they run on."""

    address: str = ""
    """Address of a running Ray cluster; empty means RAY_ADDRESS, and without it a local Ray that
    is started for the run and stopped after it."""
    workers: WorkerCount | Annotated[tuple[WorkerCount, WorkerCount], Field(strict=False)] = 1
    """Training processes. The batch is divided among them; it does not grow with them. `[2, 8]` means
    at least 2, and up to 8 as machines come and go."""
    cpus_per_worker: NonNegative = 0
    """Cores that a worker computes with; 0 means as many as leave every worker a place on a node, or
    with GPUs its share of its node's cores. On this machine alone, with 0, small networks of a run
    train side by side, each on a share."""
    use_gpu: bool | Literal["auto"] = "auto"
    """One GPU for each worker; `auto` means if the cluster has that many."""
    max_failures: Annotated[int, Field(ge=0, le=100)] = 3
    """How often dead workers are replaced, to go on from the last checkpoint; counted over all
    models that the same workers train one after the other."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] = 30.0
    """Least time between two checkpoints, which is what a crash can cost at most, plus one epoch.
    Each costs a fraction of a second, more than an epoch of the digits."""

    @field_validator("workers", mode="before")
    @classmethod
    def _number_or_range(cls, value: object) -> object:
        numbers = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
        if not all(type(one) is int and one >= 1 for one in numbers):
            msg = "write a number of workers, such as 2, or the least and the most, such as [2, 8]; 1 is the least"
            raise ValueError(msg)
        return value

    @field_validator("workers")
    @classmethod
    def _in_order(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            msg = f"the first is the least; write [{value[1]}, {value[0]}]"
            raise ValueError(msg)
        return value

    @property
    def least_workers(self) -> int:
        """Without so many nothing starts."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def most_workers(self) -> int:
        """More are never started."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers


class TrackingConfig(Section):
    """Where MLflow keeps the record of runs and models."""

    uri: str = ""
    """Tracking server (`http://...`) or SQLite file (`sqlite:////...`). Empty means
    MLFLOW_TRACKING_URI, and without it `mlflow.db` in the folder `storage`."""
    experiment: str = ""
    """Name of the MLflow experiment; empty means the name of the run."""
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 10
    """How long a tracking server may take to answer before the run is refused."""


class General(Section):
    """The keys that stand above all sections."""

    name: str
    """Name of the run and first part of the names of its models: letters, digits, `-`, `_`, `.`.
    Default: the name of the source, so that models of other pictures are other models."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of initial weights, order and augmentation; of splits see data.split_seed."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """How often to train each architecture, with this seed and the ones after it, on the same splits. The best on
    validation is registered; scores are compared as means, with intervals that hold seeds too."""
    archs: Annotated[tuple[Arch, ...], Field(min_length=1, strict=False)] = ARCHS
    """The architectures to train, in this order."""
    storage: str = "mlruns"
    """Folder for everything a run writes; on a cluster, one that every node sees. A relative path
    counts from the current folder."""

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w.-]{0,99}", value):
            msg = "a name is 1 to 100 letters, digits, '-', '_' or '.', and does not start with '-' or '.'"
            raise ValueError(msg)
        return value

    @field_validator("archs")
    @classmethod
    def _each_once(cls, value: tuple[Arch, ...]) -> tuple[Arch, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("storage")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # Ray workers change directory, so a relative path would point elsewhere there.
        return str(Path(value).expanduser().absolute())
