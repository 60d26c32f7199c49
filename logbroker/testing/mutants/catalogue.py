"""Bugs in what the simulator has a stand-in for: the catalogue's placement, and who may do what. Tests catch them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.node.catalogue import rights
from logbroker.node.catalogue.machine import Catalogue
from logbroker.node.placement import Placement
from logbroker.testing.mutants.planting import mutant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logbroker.ids import NodeId
    from logbroker.node.catalogue.rows import GroupRow, ReplicaRow
    from logbroker.testing.mutants.planting import Patch

_PLACEMENT_TESTS = "tests/unit/node/test_placement.py"


@mutant("incarnation-ignored", "B13", "an emptied node is given the replicas of its life before", test=_PLACEMENT_TESTS)
def _(patch: Patch) -> None:
    def of_any_life(catalogue: Catalogue, node: NodeId, incarnation: bytes) -> Iterator[tuple[GroupRow, ReplicaRow]]:
        del incarnation
        for group in catalogue.groups():
            for row in group.replicas:
                if row.node == node:
                    yield group, row

    patch.attribute(Catalogue, "replicas_on", of_any_life)


@mutant("orphans-deleted", "B35", "a replica that the catalogue does not name is deleted", test=_PLACEMENT_TESTS)
def _(patch: Patch) -> None:
    patch.attribute(Catalogue, "is_replica_gone", lambda catalogue, group, replica: True)


@mutant("placement-stale", "B35", "a node acts on a catalogue that is behind its own log", test=_PLACEMENT_TESTS)
def _(patch: Patch) -> None:
    patch.attribute(Placement, "is_current", lambda placement, replica: True)


@mutant("rights-unasked", "B40", "a right on anything is a right on everything", test="tests/unit/server/test_auth.py")
def _(patch: Patch) -> None:
    patch.function(rights.allows, lambda grants, right, queue: bool(list(grants)))
