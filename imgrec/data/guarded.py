"""Pictures from outside, decoded for a classifier in processes that may take so much for each."""

from collections.abc import Iterator, Sequence

from imgrec.data.content import Content
from imgrec.data.decode import Decoding, Pixels, decode, pictures_at_once
from imgrec.data.parallel import OwnDecoder, map_in_chunks, within_limits
from imgrec.errors import DecodeError


def decode_all(
    contents: Sequence[Content], how: Decoding, workers: int = 0
) -> Iterator[Pixels | DecodeError]:
    """The pixels (H, W, C) of each, or why it cannot be read, in order; by so many processes, 0 for one a core."""
    chunk = pictures_at_once(how.image_shape)  # of large pictures few wait for whoever asked
    for some in map_in_chunks(_decode_some, contents, how, workers=workers, most_chunk=chunk):
        yield from some


def decode_with(
    decoder: OwnDecoder, contents: Sequence[Content], how: Decoding
) -> list[Pixels | DecodeError]:
    """The same of a few, in one process."""
    return [one for some in decoder.map(_decode_some, contents, how) for one in some]


def _decode_some(
    _start: int, contents: Sequence[Content], how: Decoding
) -> list[Pixels | DecodeError]:
    decoded: list[Pixels | DecodeError] = []
    for content in contents:
        try:
            read = content.read()
            with within_limits():
                decoded.append(decode(read, how))
        except DecodeError as error:
            decoded.append(error)
    return decoded
