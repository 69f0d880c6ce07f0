"""What a picture is brought to. It imports nothing, for the processes that decode are to come up quickly."""

from typing import Literal

Resize = Literal["fill", "fit", "stretch"]
ImageShape = tuple[int, int, int]
"""Height, width, channels (1 or 3)."""
