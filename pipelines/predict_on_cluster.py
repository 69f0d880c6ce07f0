"""Answers to any number of pictures by all nodes of a cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from imgrec.classifier import Card, Classifier
from imgrec.config import ClusterConfig
from imgrec.data.sources.sample import Named
from imgrec.distributed.nodes import NodeInfo
from imgrec.distributed.parts import held_cores, is_busy, on_all_nodes
from imgrec.distributed.session import ray_session
from imgrec.distributed.spread import node_without
from pipelines.answers import SCHEMA
from pipelines.logs import log_to_file
from pipelines.predict import Advance, Answer, Here, Parts, table_of

PIECE = 256
"""Pictures that a node takes at a time."""


@contextmanager
def answering(
    cluster: ClusterConfig,
    storage: Path,
    classifier: Classifier,
    pictures: Sequence[Named],
    *,
    top: int,
    note: Callable[[str], None],
) -> Iterator[Answer]:
    """What answers inside: all nodes of a cluster, or this machine where one of them does not see the pictures.

    Args:
        cluster: Its address.
        storage: Where logs lie.
        classifier: That answers.
        pictures: All of them.
        top: How many of the most probable classes to write.
        note: Told who answers.

    Raises:
        ClusterError: the cluster does not answer.
    """
    with ray_session(cluster, log_to_file(storage)) as session:
        if node := node_without([content for _, content in pictures], session.nodes):
            note(f"{node} does not see the pictures, so this machine alone answers")
            yield Here(classifier, top)
        else:
            several = len(session.nodes) > 1
            note(
                f"{len(session.nodes)} node{'s' if several else ''} of the cluster answer{'' if several else 's'}"
            )
            if is_busy(session.nodes):
                note("others hold all of the cluster's cores or GPUs: waiting for one")
            yield Everywhere(session.nodes, classifier, top)


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Parts are answered by all nodes of a cluster, which see the pictures as this one does.

    Attributes:
        nodes: Of the cluster.
        classifier: That answers.
        top: How many of the most probable classes to write.
    """

    nodes: Sequence[NodeInfo]
    classifier: Classifier
    top: int

    def __call__(self, parts: Parts, advance: Advance) -> Iterator[tuple[int, pa.Table]]:
        """The answers to each part, as they end; a node takes a piece of one at a time, so that all have work to the end."""
        weights = {name: one.cpu() for name, one in self.classifier.model.state_dict().items()}
        build = partial(_answering, self.classifier.card, weights, self.top)
        pieces = {
            start + place: pictures[place : place + PIECE]
            for start, pictures in parts.items()
            for place in range(0, len(pictures), PIECE)
        }
        whole = {
            place: start
            for start, pictures in parts.items()
            for place in range(start, start + len(pictures), PIECE)
        }
        came: dict[int, dict[int, pa.Table]] = {start: {} for start in parts}
        for place, table in on_all_nodes(self.nodes, build, pieces):
            start = whole[place]
            came[start][place] = self._read_here_too(table, pieces[place])
            advance(table.num_rows)
            if sum(one.num_rows for one in came[start].values()) == len(parts[start]):
                answered = came.pop(start)
                yield start, pa.concat_tables([answered[one] for one in sorted(answered)])

    def _read_here_too(self, table: pa.Table, pictures: Sequence[Named]) -> pa.Table:
        """The answers, where this machine has looked again at what a node could not read: that may see less than this one."""
        rows = table.to_pylist()
        unread = [place for place, row in enumerate(rows) if row["error"] is not None]
        if not unread:
            return table
        again = table_of(self.classifier, self.top, [pictures[place] for place in unread])
        for place, row in zip(unread, again.to_pylist(), strict=True):
            rows[place] = row
        return pa.Table.from_pylist(rows, SCHEMA)


def _answering(
    card: Card, weights: dict[str, Tensor], top: int
) -> Callable[[Sequence[Named]], pa.Table]:
    """On a node: what answers its parts."""
    return partial(table_of, Classifier(card, weights), top, decode_workers=held_cores())
