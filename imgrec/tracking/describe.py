"""What a stranger reads of a model in MLflow's own pages: written from the tags of its versions."""

from collections.abc import Mapping

from imgrec.tracking.connection import Tracking
from imgrec.tracking.tags import ABOUT, ARCH, REASON
from imgrec.tracking.versions import RegisteredVersion

ROWS = {
    "accuracy": "test accuracy",
    "macro_f1": "test macro-F1",
    "log_loss": "test log loss",
    "data": "data",
    "training": "training pictures",
    "begins_with": "begins with",
    "code": "code",
}
"""What is told of a version: parts of its tags ABOUT, and what the table calls them."""


def describe(
    tracking: Tracking, version: RegisteredVersion, champion: RegisteredVersion | None
) -> None:
    """Write the page of a version and, from its champion, that of the model, as they are now.

    Args:
        tracking: Where it is registered.
        version: What something was decided about, with its tags.
        champion: Of the model, with its tags; None where there is none.
    """
    client, name = tracking.client, version.name
    with tracking.answering():
        leads = champion is not None and champion.version == version.version
        client.update_model_version(name, str(version.version), _of_version(version, leads=leads))
        client.update_registered_model(name, _of_model(name, champion))
        for key, text in _tags_of_model(version, champion).items():
            client.set_registered_model_tag(name, key, text)
        if "champion" in client.get_registered_model(name).tags:  # of an earlier imgrec
            client.delete_registered_model_tag(name, "champion")


def _of_version(version: RegisteredVersion, *, leads: bool) -> str:
    state = "Champion" if leads else "Not champion"
    reason = version.tags.get(REASON, "")
    return "\n".join(
        [_classes(version.tags), "", *_table(version.tags), "", f"**{state}**: {reason}."]
    )


def _of_model(name: str, champion: RegisteredVersion | None) -> str:
    if champion is None:
        return f"None of its versions is champion yet: `imgrec history {name}` says why."
    tags = champion.tags
    use = (
        f"Use it: `imgrec predict {name} FILE`, `imgrec serve {name}`, or `mlflow models serve -m models:/{name}@champion --env-manager local`. "
        f"All decisions: `imgrec history {name}`."
    )
    return "\n".join(
        [
            _classes(tags),
            "",
            f"**Version {champion.version} is champion**: {tags.get(REASON, 'chosen by hand')}.",
            "",
            *_table(tags),
            "",
            use,
        ]
    )


def _classes(tags: Mapping[str, str]) -> str:
    return f"{tags.get(ARCH, 'A model')} that tells apart {tags.get(ABOUT + 'classes', 'its classes')}."


def _table(tags: Mapping[str, str]) -> list[str]:
    rows = [
        f"| {what} | {tags[ABOUT + key]} |" for key, what in ROWS.items() if ABOUT + key in tags
    ]
    return ["| | |", "|---|---|", *rows]


def _tags_of_model(
    version: RegisteredVersion, champion: RegisteredVersion | None
) -> dict[str, str]:
    """What MLflow's list of models shows."""
    about = champion.tags if champion else version.tags
    # The alias says who is champion, and the list has room for one tag.
    tags = {"accuracy": about.get(f"{ABOUT}accuracy", "") if champion else ""}
    tags["data"] = about.get(f"{ABOUT}data", "")
    tags["architecture"] = about.get(ARCH, "")
    return {key: text or "-" for key, text in tags.items()}
