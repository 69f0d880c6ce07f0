"""The settings of a run: typed, checked once, then frozen.

A run is written as TOML, with `--set key=value` on top. What every architecture shares stands in
`[train]` and `[preprocess]`; what one architecture wants otherwise stands under its own name:

    [train]
    epochs = 20
    [cnn.model]
    widths = [32, 64, 64]
    [cnn.train]
    learning_rate = 0.005

Precedence, weakest first: the default of the field, the default of the architecture
(`train_defaults`), the shared section, the architecture's own section. The result is one `Config`
with a `Branch` for each architecture; nothing is looked up or written back after that.

What a search may change stands under `[cnn.space]`: for each setting a range or choices.

`0` and `None` stand for "choose from the data"; the choice is made once the data are known
(`TrainConfig.resolved`, `preprocess.augment.choose_augmentation`) and is printed and logged.
"""

from imgrec.config.architectures import (
    ARCHS,
    AnnConfig,
    Arch,
    CnnConfig,
    ModelConfig,
    RnnConfig,
    TransformerConfig,
)
from imgrec.config.branch import Branch, is_active
from imgrec.config.data import DataConfig
from imgrec.config.filters import FILTERS, Filter
from imgrec.config.load import Config, load_config, written_settings
from imgrec.config.sections import (
    CalibrateConfig,
    ClusterConfig,
    Imbalance,
    PreprocessConfig,
    PretrainedConfig,
    PromoteConfig,
    ReportConfig,
    SearchConfig,
    ServeConfig,
    TrackingConfig,
    TrainConfig,
)
from imgrec.config.space import Dimension
from imgrec.shapes import ImageShape, Resize

__all__ = [
    "ARCHS",
    "FILTERS",
    "AnnConfig",
    "Arch",
    "Branch",
    "CalibrateConfig",
    "ClusterConfig",
    "CnnConfig",
    "Config",
    "DataConfig",
    "Dimension",
    "Filter",
    "ImageShape",
    "Imbalance",
    "ModelConfig",
    "PreprocessConfig",
    "PretrainedConfig",
    "PromoteConfig",
    "ReportConfig",
    "Resize",
    "RnnConfig",
    "SearchConfig",
    "ServeConfig",
    "TrackingConfig",
    "TrainConfig",
    "TransformerConfig",
    "is_active",
    "load_config",
    "written_settings",
]
