"""The queues of the features: how they are made, and the reference model of a partition of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from logbroker.partition.breaker import BreakerPolicy
from logbroker.partition.limits import SizeLimits
from logbroker.testing.model import PartitionModel
from logbroker.testing.order_rules import OrderRules
from logbroker_client.queue_options import QueueOptions

DEFAULT = "default"


@final
@dataclass(frozen=True, slots=True)
class FeatureQueue:
    """One queue. Nothing of it is retained so briefly that a round would notice."""

    name: str
    partitions: int = 1
    groups: tuple[str, ...] = (DEFAULT,)
    hide_s: float = 4.0
    max_deliveries: int = 0
    options: QueueOptions = field(default_factory=QueueOptions)

    def places(self) -> list[tuple[str, int]]:
        return [(self.name, number) for number in range(self.partitions)]

    def model(self) -> PartitionModel:
        """What a partition of it must be, by the settings that its leaders know."""
        options = self.options
        model = PartitionModel(
            max_deliveries=self.max_deliveries,
            max_age_ms=round(options.get("max_age", 0.0) * 1000),
            limits=SizeLimits(
                max_messages=options.get("max_messages", 0), drops_oldest=options.get("full") == "drop_oldest"
            ),
            breaker=_breaker(options),
        )
        if "window" in options:
            blocks = options.get("on_failure", "block") == "block"
            model.order = OrderRules(options["window"], options.get("order") == "key", blocks)
        return model


def _breaker(options: QueueOptions) -> BreakerPolicy | None:
    if "breaker" not in options:
        return None
    return BreakerPolicy(
        round(options["breaker"] * 100),
        options["breaker_count"],
        round(options["breaker_window"] * 1000),
        round(options["breaker_pause"] * 1000),
    )


LATER = FeatureQueue("later")
DEAD = FeatureQueue("dead")
# What stalls for long dies of its age too.
RISKY = FeatureQueue(
    "risky",
    partitions=2,
    max_deliveries=3,
    options={"backoff": 0.2, "max_backoff": 2.0, "max_age": 12.0, "dead_letter": DEAD.name},
)
UNIQUE = FeatureQueue("unique", partitions=2)
KEYED = FeatureQueue("keyed", max_deliveries=4, hide_s=2.0, options={"order": "key", "window": 8})
SINGLE = FeatureQueue("single", hide_s=2.0, options={"window": 1})
PAUSED = FeatureQueue("paused", partitions=2, groups=(DEFAULT, "batch"))
BOUNDED = FeatureQueue("bounded", options={"max_messages": 20, "full": "reject"})
NEWEST = FeatureQueue("newest", options={"max_messages": 20, "full": "drop_oldest"})
FRAGILE = FeatureQueue(
    "fragile", options={"breaker": 0.5, "breaker_count": 10, "breaker_window": 5.0, "breaker_pause": 2.0}
)

QUEUES = (LATER, DEAD, RISKY, UNIQUE, KEYED, SINGLE, PAUSED, BOUNDED, NEWEST, FRAGILE)
"""In an order in which they can be made: a dead-letter queue comes before those that name it."""
