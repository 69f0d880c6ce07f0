"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None, typer.Argument(help="Settings as TOML. Default: the bundled digits.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of class folders, .csv, .parquet, .tar, torchvision:NAME or a URL."
    ),
]
Name = Annotated[str | None, typer.Option(help="First part of the names of the models.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: train.epochs=20. Repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
OneArch = Annotated[str, typer.Option("--arch", help="ann, cnn, rnn or transformer.")]
Trials = Annotated[
    int | None, typer.Option(help="Settings to try for each architecture, its defaults among them.")
]
Budget = Annotated[
    str | None,
    typer.Option(help="Time for searching, such as 10m, divided evenly among architectures."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do again what is on record already.")]
Profile = Annotated[
    bool, typer.Option("--profile", help="Keep a trace of some training steps with each model.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Address = Annotated[
    str,
    typer.Option(
        envvar="IMGREC_CLUSTER", help="The cluster's job server, such as http://HEAD:8265."
    ),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="As imgrec jobs lists it.")]
