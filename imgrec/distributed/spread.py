"""A source prepared by all nodes of a cluster, and then on the disk of each."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray

from imgrec.data.images import cache_folder
from imgrec.data.parallel import WORTH_A_POOL
from imgrec.data.scan import Advance, OneMachine, Piece, Progress
from imgrec.data.sources.sample import Content, Pixels
from imgrec.data.store import open_store
from imgrec.distributed.nodes import Machine, at
from imgrec.errors import ClusterError, DecodeError, ImgrecError, reason_of

Result = TypeVar("Result")
PIECES_PER_CORE = 4  # so that all end at about the same time
MOST_PIECE_BYTES = 256 << 20
# Tasks on their way at a time, for each core: enough for one to wait while another runs.
AHEAD = 2


class AllNodes:
    """The nodes of a cluster, each of which works on pieces where it sees the pictures.

    Where one does not see them, such as a folder of the head alone, the driver's machine does all.
    """

    def __init__(self, nodes: Sequence[Machine], alone: OneMachine) -> None:
        self._nodes = nodes
        self._alone = alone
        self._places = max(1, sum(node.cpus for node in nodes))
        self._label = f"decoding on {len(nodes)} nodes"

    def label(self) -> str:
        """What is being done, and by whom."""
        return self._label

    def cut(self, contents: Sequence[Content], row_bytes: int) -> list[slice]:
        """A few pieces for each core, of at least a thousand pictures."""
        if len(contents) <= WORTH_A_POOL or isinstance(contents[0], Pixels):
            self._label = self._alone.label()
            return self._alone.cut(contents, row_bytes)
        if blind := self._blind(contents):
            self._label = f"decoding on one node alone, for {blind} does not see the pictures:"
            return self._alone.cut(contents, row_bytes)
        rows = math.ceil(len(contents) / (PIECES_PER_CORE * self._places))
        rows = max(WORTH_A_POOL, min(rows, MOST_PIECE_BYTES // row_bytes))
        return [slice(start, start + rows) for start in range(0, len(contents), rows)]

    def work(
        self,
        function: Callable[[Piece, int, Advance], Result],
        pieces: Sequence[Piece],
        advance: Advance,
    ) -> Iterator[Result]:
        """A task for each piece; those of a node that is lost are done again by others.

        Raises:
            ClusterError: a task was lost too often.
        """
        if len(pieces) == 1:
            yield from self._alone.work(function, pieces, advance)
            return
        task = ray.remote(_work)
        waiting: deque[tuple[Piece, ray.ObjectRef]] = deque()
        try:
            for piece in pieces:
                waiting.append((piece, task.remote(function, piece)))
                if len(waiting) > AHEAD * self._places:
                    yield _next_of(waiting, advance)
            while waiting:
                yield _next_of(waiting, advance)
        finally:
            for _, answer in waiting:
                ray.cancel(answer, force=True)

    def bring(self, folder: Path, progress: Progress) -> None:
        """Let each node put the images together on its own disk.

        Raises:
            DataError: a node has no room for them.
        """
        task = ray.remote(_bring)
        answers = [task.options(**at(node)).remote(folder) for node in self._nodes]
        for done, (node, answer) in enumerate(zip(self._nodes, answers, strict=True), start=1):
            try:
                copied = _answer(answer)
            except ImgrecError as error:
                msg = f"the node {node.address}: {error}"
                raise type(error)(msg) from error
            if copied:
                progress(f"copied to {done} of {len(self._nodes)} nodes:", copied, copied)

    def _blind(self, contents: Sequence[Content]) -> str:
        """The address of a node that does not read the same pictures as this one."""
        probes = [contents[0], contents[len(contents) // 2], contents[-1]]
        ours = _digest_of(probes)
        task = ray.remote(_digest_of)
        answers = [task.options(**at(node)).remote(probes) for node in self._nodes]
        found = [_answer(answer) for answer in answers]
        theirs = zip(self._nodes, found, strict=True)
        return next((node.address for node, digest in theirs if digest != ours), "")


def _work(function: Callable[[Piece, int, Advance], Result], piece: Piece) -> Result:
    """On a node, in the one core of a task."""
    return function(piece, 1, lambda _: None)


def _bring(folder: Path) -> int:
    """On a node: pictures that were copied for it, none where they lay on its disk already."""
    copy = cache_folder() / f"{folder.name}.npy"
    was_there = copy.exists()
    store = open_store(folder)
    return len(store.labels) if copy.exists() and not was_there else 0


def _digest_of(contents: Sequence[Content]) -> str:
    digest = hashlib.sha256()
    for one in contents:
        try:
            content = one.read()
            digest.update(content if isinstance(content, bytes) else content.tobytes())
        except DecodeError as error:
            digest.update(str(error).encode())
    return digest.hexdigest()


def _next_of(waiting: deque[tuple[Piece, ray.ObjectRef]], advance: Advance) -> Any:
    piece, answer = waiting[0]
    found = _answer(answer)
    waiting.popleft()
    advance(len(piece.contents))
    return found


def _answer(answer: ray.ObjectRef) -> Any:
    """What a task returned.

    Raises:
        ImgrecError: the task's own, or a ClusterError where it was lost too often.
    """
    try:
        return ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ImgrecError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        msg = f"preparing the pictures: a task was lost too often ({reason_of(error)})"
        raise ClusterError(msg) from error
