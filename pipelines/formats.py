"""Numbers, for people."""


def shown(value: object) -> str:
    """A setting, for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("bytes", "KB", "MB"):
        if round(count) < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 10 else f"{count:.0f} GB"


def cores_in_words(count: int) -> str:
    """`1 core`, `2 cores`."""
    return f"{count} core{'s' if count > 1 else ''}"


def duration(seconds: float) -> str:
    """For people: `2 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
