"""A source prepared by all nodes of a cluster, and then on the disk of each."""

import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray

from imgrec.cache import cache_folder
from imgrec.data.content import Content, InMemoryPixels
from imgrec.data.images import refuse_without_room
from imgrec.data.look import PartScan
from imgrec.data.scan import Advance, LocalDecoding, ScanPart, Work
from imgrec.data.sources.sample import Progress
from imgrec.data.store import open_store
from imgrec.distributed.leave import leave
from imgrec.distributed.nodes import NodeInfo, at, list_nodes
from imgrec.errors import ClusterError, DataError, ImgrecError, reason_of

Result = TypeVar("Result")
# Fewer pictures than this are one machine's work, and no part has fewer.
LEAST_PART = 1024
PARTS_PER_CORE = 4  # so that all end at about the same time
MOST_PART_BYTES = 256 << 20
# Tasks on their way at a time, for each core: enough for one to wait while another runs.
AHEAD = 2


class ClusterDecoding:
    """Decoding on all nodes of a cluster.

    Where one of them does not see the pictures, such as a folder of the head alone, the driver's node decodes
    all of them.
    """

    def __init__(self, nodes: Sequence[NodeInfo], alone: LocalDecoding) -> None:
        self._nodes = nodes
        self._alone = alone
        self._cores = max(1, sum(node.cpus for node in nodes))
        busy = sum(node.cpus > 0 for node in nodes)
        self._label = f"decoding pictures on {busy} node{'s' if busy > 1 else ''}"

    def label(self) -> str:
        """What is being done, and by whom."""
        return self._label

    def cut(self, contents: Sequence[Content], row_bytes: int, *, encoded: bool) -> list[slice]:
        """A few parts for each core, of at least a thousand pictures.

        Raises:
            StorageError: the driver's machine has no room for its copy.
        """
        if len(contents) <= LEAST_PART or isinstance(contents[0], InMemoryPixels):
            self._label = self._alone.label()
            return self._alone.cut(contents, row_bytes, encoded=encoded)
        if node := node_without(contents, self._nodes):
            self._label = f"{node} does not see the pictures, so one node alone is decoding them"
            return self._alone.cut(contents, row_bytes, encoded=encoded)
        if not encoded:
            refuse_without_room(len(contents) * row_bytes)  # now rather than after hours
        rows = math.ceil(len(contents) / (PARTS_PER_CORE * self._cores))
        rows = max(LEAST_PART, min(rows, MOST_PART_BYTES // row_bytes))
        return [slice(start, start + rows) for start in range(0, len(contents), rows)]

    def work(
        self,
        function: Work[Result],
        parts: Sequence[ScanPart],
        advance: Advance,
    ) -> Iterator[Result]:
        """A task for each part; those of a node that is lost are done again by others.

        Where a task could not read a picture, the driver reads that part again: the task's node may have
        joined later, without the folder of the pictures.

        Raises:
            ClusterError: a task was lost too often.
        """
        if len(parts) == 1:
            yield from self._alone.work(function, parts, advance)
            return
        task = ray.remote(_work)
        waiting: deque[tuple[ScanPart, ray.ObjectRef]] = deque()
        try:
            for part in parts:
                waiting.append((part, task.remote(function, part)))
                if len(waiting) > AHEAD * self._cores:
                    yield self._next_of(waiting, function, advance)
            while waiting:
                yield self._next_of(waiting, function, advance)
        finally:
            leave([answer for _, answer in waiting])

    def _next_of(
        self,
        waiting: deque[tuple[ScanPart, ray.ObjectRef]],
        function: Work[Result],
        advance: Advance,
    ) -> Result:
        part, answer = waiting[0]
        try:
            result: Result = _answer(answer)
            doubtful = isinstance(result, PartScan) and result.unread > 0
        except DataError:
            doubtful = True
        waiting.popleft()
        if doubtful:
            (result,) = self._alone.work(function, [part], advance)
        else:
            advance(len(part.contents))
        return result

    def expect(self) -> None:
        """Nothing: which nodes will decode is known later."""

    def bring(self, folder: Path, progress: Progress) -> None:
        """Let each node that is alive put the images together on its own disk.

        Raises:
            StorageError: a node has no room for them.
        """
        task = ray.remote(_bring)
        nodes = list_nodes()
        answers = [task.options(**at(node)).remote(folder) for node in nodes]
        for done, (node, answer) in enumerate(zip(nodes, answers, strict=True), start=1):
            try:
                copied = _answer(answer)
            except ClusterError:
                continue  # it is gone, or going; whoever trains on it copies for itself
            except ImgrecError as error:
                msg = f"the node {node.address}: {error}"
                raise type(error)(msg) from error
            if copied:
                progress(f"pictures copied to {done} of {len(nodes)} nodes", copied, copied)


def node_without(contents: Sequence[Content], nodes: Sequence[NodeInfo]) -> str:
    """The address of a node that does not read the same pictures as this one; empty where all do."""
    probes = [contents[0], contents[len(contents) // 2], contents[-1]]
    ours = _digest_of(probes)
    task = ray.remote(_digest_of)
    answers = [task.options(**at(node)).remote(probes) for node in nodes]
    for node, answer in zip(nodes, answers, strict=True):
        with contextlib.suppress(ClusterError):  # one that is gone has no say
            if _answer(answer) != ours:
                return node.address
    return ""


def _work(function: Work[Result], part: ScanPart) -> Result:
    """On a node, in the one core of a task."""
    result = function(part, 1, lambda _: None)
    if part.images_file.suffix == ".npy":
        # What is done is on the storage, where others look for it.
        images = np.load(part.images_file, mmap_mode="r+")
        images.flush()
    return result


def _bring(folder: Path) -> int:
    """On a node: pictures that were copied for it, none where they lay on its disk already."""
    copy = cache_folder() / f"{folder.name}.npy"
    was_there = copy.exists()
    images = open_store(folder).images
    return len(images) if copy.exists() and not was_there else 0


def _digest_of(contents: Sequence[Content]) -> str:
    digest = hashlib.sha256()
    for one in contents:
        try:
            content = one.read()
            digest.update(content if isinstance(content, bytes) else content.tobytes())
        except DataError as error:
            digest.update(str(error).encode())
    return digest.hexdigest()


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
