"""Flower's Grid over secure aggregation: a strategy sends its messages, and gets one reply for all.

What comes back stands for all sites in the sum: the weighted mean of their arrays and metrics, with
the summed weight. So a strategy that only takes the weighted mean does what it would do if it saw
every reply, and one that compares sites cannot work; see `privnb.federated.strategies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from privnb.errors import QueryRefused
from privnb.federated.flower import (
    SITE,
    Array,
    ArrayRecord,
    Message,
    MetricRecord,
    RecordDict,
    run_named,
)
from privnb.federated.messages import Work
from privnb.federated.vectors import Mean, forms_of, mean_of, packed

# isort: split
from flwr.serverapp import Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flwr.supercore.run import Run

    from privnb.computation import Parameters, Scalar
    from privnb.federated.conductor import Summed

__all__ = ["SumGrid"]

_KINDS = ("train", "evaluate")
_ARRAYS, _CONFIG, _METRICS = "arrays", "config", "metrics"


class SumGrid(Grid):
    """The nodes of a run as a strategy sees them.

    Parameters
    ----------
    sites
        How many sites there are; each is a node.
    rounds
        How many rounds there are at most: a round beyond them is not asked for.
    weighted_by
        The metric that replies are weighted by.
    summed
        Has the sites work, and returns their sum: `privnb.federated.conductor.Conductor.sum`.
    """

    def __init__(
        self,
        *,
        sites: int,
        rounds: int,
        weighted_by: str,
        summed: Callable[[Work, bytes], Summed],
    ) -> None:
        self._nodes = tuple(range(SITE, SITE + sites))
        self._rounds = rounds
        self._weighted_by = weighted_by
        self._summed = summed
        self._run = run_named()
        self.round = 1
        """Which round it is; whoever drives the rounds says so."""
        self.last: tuple[Summed, Mean] | None = None
        """What came last: who is in it, and what it says."""

    def set_run(self, run: Run) -> None:
        """See `Grid.set_run`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See `Grid.run`."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See `Grid.create_message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return one number for each site of the run; they say nothing of which it is."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> NoReturn:
        """Refuse: there is nothing to send one message to."""
        del messages
        raise _only_all()

    def pull_messages(self, message_ids: Iterable[str]) -> NoReturn:
        """Refuse: there is no reply of one site."""
        del message_ids
        raise _only_all()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Sequence[Message]:
        """Have all sites work on the same message, and return one reply that stands for all.

        How long is waited is up to the run; ``timeout`` is not looked at.

        Raises `QueryRefused` where the messages differ, or are not for all sites.
        """
        del timeout
        sent = list(messages)
        if not sent:
            return []
        first = sent[0]
        self._require_the_same(sent)
        kind = cast('Literal["train", "evaluate"]', first.metadata.message_type)
        arrays = self._arrays(first)
        work = Work(
            kind=kind,
            round=self.round,
            arrays=forms_of(arrays),
            config=_parameters(first),
            weighted_by=self._weighted_by,
        )
        summed = self._summed(work, packed(arrays))
        if summed.form is None:
            raise QueryRefused("The sites did not say what they sent.", code="E_OUTPUT")
        mean = mean_of(summed.total, summed.form)
        self.last = (summed, mean)
        return [_reply(first, mean, kind=kind, weighted_by=self._weighted_by)]

    def _require_the_same(self, sent: Sequence[Message]) -> None:
        first = sent[0]
        if first.metadata.message_type not in _KINDS:
            raise QueryRefused(
                f"The strategy sends a message of type {first.metadata.message_type!r}.",
                hint="Only train and evaluate can be summed.",
            )
        if sorted(m.metadata.dst_node_id for m in sent) != list(self._nodes):
            raise QueryRefused(
                "The strategy leaves sites out of a round.",
                hint="Who is in a sum must not be chosen: the difference of two sums would be one"
                " site's part. Let fraction_train and fraction_evaluate be 1.",
            )
        for message in sent:
            if message.content is not first.content and message.content != first.content:
                raise QueryRefused(
                    "The strategy asks the sites for different things.",
                    hint="All have to get the same message: a sum of other things says nothing.",
                )

    @staticmethod
    def _arrays(message: Message) -> dict[str, Any]:
        records = dict(message.content.array_records)
        if set(records) - {_ARRAYS}:
            raise QueryRefused(
                f"The strategy sends arrays under {', '.join(sorted(set(records) - {_ARRAYS}))}.",
                hint=f"Leave arrayrecord_key at {_ARRAYS!r}, which the app finds them by.",
            )
        return {name: array.numpy() for name, array in records.get(_ARRAYS, {}).items()}


def _reply(message: Message, mean: Mean, *, kind: str, weighted_by: str) -> Message:
    metrics: dict[str, Any] = {**mean.metrics, weighted_by: mean.weight}
    content: dict[str, Any] = {_METRICS: MetricRecord(metrics)}
    if kind == "train":
        arrays = {name: Array(array) for name, array in mean.arrays.items()}
        content[_ARRAYS] = ArrayRecord(arrays)
    return Message(RecordDict(content), reply_to=message)


def _parameters(message: Message) -> Parameters | None:
    """Read what the strategy says to the apps beside the arrays."""
    records = dict(message.content.config_records)
    if set(records) - {_CONFIG}:
        raise QueryRefused(
            f"The strategy sends settings under {', '.join(sorted(set(records) - {_CONFIG}))}.",
            hint=f"Leave configrecord_key at {_CONFIG!r}, which the app finds them by.",
        )
    said: Parameters = {}
    for name, value in records.get(_CONFIG, {}).items():
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bytes) for item in items):
            raise QueryRefused(
                f"The strategy sends bytes as {name!r}.",
                hint="Settings are text, numbers and truth values, which reviewers can read.",
            )
        said[name] = cast("Scalar | list[Scalar]", value)
    return said or None


def _only_all() -> QueryRefused:
    return QueryRefused(
        "The strategy sends messages to single sites.",
        hint="Only the sum over all sites is ever seen: let it use send_and_receive.",
    )
