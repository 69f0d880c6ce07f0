"""The settings of the data."""

import codecs
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from imgrec.config.section import Fraction, NonNegative, Positive, Section
from imgrec.shapes import Resize

PLACE = re.compile(
    r"(\[[\da-fA-F:.]+\]|[^\s/:@\\\[\]]+)(:\d{1,5})?|(s3|gs|az|oss)://[^\s/\\]+|hf://[^\s/\\]+(/[^\s/\\@]+){1,2}"
)
"""A host, with or without a port; a bucket; or a repository of Hugging Face."""


class DataConfig(Section):
    """Where the pictures come from and how they become arrays of one shape."""

    source: str = "digits"
    """`digits` (1,797 pictures bundled with scikit-learn); a folder of class folders, with or
    without train/, val/ and test/ above them; a table of path, label and split (.csv, .jsonl, .parquet);
    .parquet, .tar or .zip files with the pictures inside, or a folder of them; any of these behind
    s3://, gs:// or https://; or `torchvision:FashionMNIST`. A relative path counts from the
    current folder."""
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of the classes. Pictures of others are quarantined. Default: all that there are."""
    columns: Mapping[Literal["path", "label", "split"], str] = Field(default_factory=dict)
    """Which columns of a table say what, where they are not called as usual: `{path = "id", label = "breed"}`."""
    encoding: str = "auto"
    """Of the text in a table (`utf-8`, `gbk`, `cp1252`), where it is not found rightly."""
    label_pattern: str = ""
    """Regular expression that finds the class of a picture in its path, as `(?P<label>...)`, where no folder says it:
    `(?P<label>[a-z]+)[._]\\d+`."""
    group: str = ""
    """What pictures of one patient, animal, device or film have in common; they never lie on both sides of a split.
    `folder`: the folder that they lie in; a regular expression with `(?P<group>...)`, of the path; or the name of a
    column of a table."""
    label_from: Literal["auto", "top", "leaf", "path"] = "auto"
    """Which folder names the class of a picture: that on `top` (below folders of splits and wrappers), whatever lies
    deeper; the one that it lies in (`leaf`); or the `path` of folders from the top one (`dogs/terrier`). `auto`
    takes the top one, and refuses what could be meant otherwise."""
    image_ending: str = ""
    """Of WebDataset samples with several pictures, which one counts: what follows the first dot of its name, such as
    `left.jpg`. Default: each has one."""
    allow_hosts: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Hosts (`images.example.org`, with or without a port) and buckets (`s3://pictures`) that rows of a table
    from a URL may lie in, beside the table's own, and that a web server may redirect to."""
    allow_leakage: bool = False
    """Go on though the same picture is in train and in test of the source."""
    near_duplicates: Annotated[int, Field(ge=0, le=8)] = 3
    """Of the 64 bits of two pictures' perceptual hashes, how many may differ for them to be looked
    at as near duplicates; they are kept in one split. 0 looks for exact ones only."""
    image_size: Annotated[tuple[Positive, Positive], Field(strict=False)] | None = None
    """Height and width in pixels, at most 1024, or one number for both. Default: the size that all
    pictures share, or their median shorter side, at most 128."""
    channels: Literal[1, 3] | None = None
    """1 (grey) or 3 (RGB). Default: 1 where every picture is grey, otherwise 3."""
    depth: Literal["auto", "unit"] | Annotated[int, Field(ge=8, le=32)] = "auto"
    """Of greys with more than 8 bits in their files: how many of the bits are used, such as 12 of a
    camera's, or `unit` for floats from 0 to 1. Brighter values become white. `auto` takes the fewest of
    8, 10, 12, 14 and 16 bits that hold the brightest values of all pictures together."""
    resize: Resize = "fill"
    """How a picture of another size is brought to image_size: `fill` crops what stands out in the
    middle, `fit` pads with black, `stretch` changes its proportions."""
    val_fraction: Fraction = 0.1
    """Share of all pictures that chooses the best epoch, where the source has no split val."""
    test_fraction: Fraction = 0.2
    """Share of all pictures held out for the final score, where the source has no split test."""
    test_from: Literal["train", "val"] = "train"
    """Where the source has val but no test: cut as many pictures as val has from `train`, or take `val`
    itself, and cut another val from train."""
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides, with the contents of the pictures, which of them are cut off for val and test. Models of
    the same are scored on the same pictures, whatever their `seed`."""
    keep: Literal["auto", "pixels", "jpeg"] = "auto"
    """How the store keeps pictures: as `pixels`, which are read the fastest; or each as a `jpeg` of
    them (quality 95), a quarter of the room for photos of 128 pixels, decoded whenever it is read.
    `auto` takes pixels up to 64 GB."""
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = 50_000_000
    """A picture with more pixels than this is not decoded but quarantined; a JPEG file that is not progressive may have
    sixteen times as many, for it is decoded at an eighth of its sides."""
    decode_workers: NonNegative = 0
    """Processes that read and decode files; 0 means one a core. Where all nodes of a cluster decode,
    each core takes part."""

    @field_validator("allow_hosts")
    @classmethod
    def _places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for place in value:
            if not PLACE.fullmatch(place):
                msg = (
                    f"{place!r} is neither a host (images.example.org) nor a bucket (s3://pictures)"
                )
                raise ValueError(msg)
        # Names of hosts are the same in small letters; those of buckets are not.
        return tuple(place if "://" in place else place.lower() for place in value)

    @field_validator("label_pattern", "group")
    @classmethod
    def _compiles(cls, value: str, info: ValidationInfo) -> str:
        part = "label" if info.field_name == "label_pattern" else "group"
        if info.field_name == "group" and "(?P" not in value:
            return value
        try:
            names = re.compile(value).groupindex
        except re.error as error:
            msg = f"is no regular expression ({error})"
            raise ValueError(msg) from error
        if value and part not in names:
            msg = f"has no (?P<{part}>...), which marks the {part}"
            raise ValueError(msg)
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            return value if value == "auto" else codecs.lookup(value).name
        except LookupError as error:
            msg = f"{value!r} is no encoding; write one such as utf-8, gbk or cp1252"
            raise ValueError(msg) from error

    @field_validator("depth", mode="before")
    @classmethod
    def _known_depth(cls, value: object) -> object:
        known = value in ("auto", "unit") or (type(value) is int and 8 <= value <= 32)
        if not known:
            msg = "write auto, unit, or a number of bits from 8 to 32"
            raise ValueError(msg)
        return value

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @field_validator("image_size")
    @classmethod
    def _not_huge(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value and max(value) > 1024:
            msg = "at most 1024 pixels a side"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 0.9:
            msg = "val_fraction and test_fraction together must leave a tenth for training"
            raise ValueError(msg)
        if not self.val_fraction or not self.test_fraction:
            msg = "val_fraction and test_fraction must be above 0: scores need their own pictures"
            raise ValueError(msg)
        return self
