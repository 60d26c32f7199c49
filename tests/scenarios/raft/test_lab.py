"""The twenty-eight situations of the Raft lab of MIT course 6.5840, in our own words, acted out on the core."""

from __future__ import annotations

from collections import Counter

import pytest

from logbroker.entry import EntryKind
from logbroker.raft.messages import MessageKind
from logbroker.raft.refusal import ProposalRefused
from tests.scenarios.raft.lab import ELECTION, Lab

# Elections.


def test_the_first_election_gives_one_leader_and_then_nothing_changes() -> None:
    lab = Lab(3)
    first = lab.leader()
    term = lab[first].core.term
    lab.tick(10 * ELECTION)
    assert lab.leaders() == [first]
    assert {lab[number].core.term for number in lab.numbers} == {term}


def test_a_leader_that_goes_is_replaced_and_comes_back_as_a_follower() -> None:
    lab = Lab(3)
    first = lab.leader()
    lab.disconnect(first)
    second = lab.leader()
    assert second != first
    lab.connect(first)
    lab.tick(2 * ELECTION)
    assert lab.leaders() == [second]
    other = next(number for number in lab.numbers if number != second)
    lab.disconnect(second, other)
    lab.no_leader()
    lab.connect(other)
    lab.leader()
    lab.connect(second)
    lab.leader()


@pytest.mark.parametrize("seed", range(3))
def test_seven_replicas_of_which_any_three_go_have_one_leader_time_and_again(seed: int) -> None:
    lab = Lab(7, seed=seed)
    for _ in range(8):
        lab.leader()
        away = lab.random.sample(lab.numbers, 3)
        lab.disconnect(*away)
        assert lab.leader() not in away
        lab.connect(*away)
    lab.leader()


# Agreement.


def test_what_is_proposed_is_applied_by_all_at_the_next_index() -> None:
    lab = Lab(3)
    first = lab.agree()
    assert [lab.agree() for _ in range(3)] == [first + 1, first + 2, first + 3]


def test_each_payload_goes_once_to_each_follower() -> None:
    lab = Lab(3)
    lab.agree()
    lab.sent.clear()
    payloads = [lab.fresh(5_000) for _ in range(10)]
    for payload in payloads:
        lab.agree(payload=payload)
    times = Counter(entry.payload for message in lab.sent for entry in message.entries if entry.kind is EntryKind.DATA)
    assert times == dict.fromkeys(payloads, 2)


def test_followers_that_go_one_by_one_stop_agreement_with_the_majority() -> None:
    lab = Lab(3)
    lab.agree()
    leader = lab.leader()
    one, other = (number for number in lab.numbers if number != leader)
    lab.disconnect(one)
    lab.agree(2)
    lab.disconnect(other)
    index = lab.propose(leader, lab.fresh())
    lab.tick(4 * ELECTION)
    assert lab.has(index) == 0


def test_leaders_that_go_one_by_one_stop_agreement_with_the_majority() -> None:
    lab = Lab(3)
    lab.agree()
    lab.disconnect(lab.leader())
    lab.agree(2)
    second = lab.leader()
    lab.disconnect(second)
    index = lab.propose(second, lab.fresh())
    lab.tick(4 * ELECTION)
    assert lab.has(index) == 0


def test_a_follower_that_was_away_catches_up() -> None:
    lab = Lab(3)
    lab.agree()
    away = next(number for number in lab.numbers if number != lab.leader())
    lab.disconnect(away)
    for _ in range(4):
        lab.agree(2)
    lab.connect(away)
    lab.agree(3)
    lab.agree(3)


def test_without_a_majority_nothing_is_agreed_and_what_was_tried_may_be_replaced() -> None:
    lab = Lab(5)
    lab.agree()
    leader = lab.leader()
    away = [number for number in lab.numbers if number != leader][:3]
    lab.disconnect(*away)
    index = lab.propose(leader, lab.fresh())
    lab.tick(4 * ELECTION)
    assert lab.has(index) == 0
    lab.connect(*away)
    assert lab.agree() >= index


def test_many_proposals_of_one_moment_are_all_applied_in_their_order() -> None:
    lab = Lab(3)
    lab.agree()
    leader = lab.leader()
    payloads = [lab.fresh() for _ in range(50)]
    indexes = [lab.propose(leader, payload) for payload in payloads]
    lab.tick(5)
    assert [lab.applied[index] for index in indexes] == payloads
    assert lab.has(indexes[-1]) == 3


def test_what_a_cut_off_leader_took_is_gone_when_it_returns() -> None:
    lab = Lab(3)
    lab.agree()
    first = lab.leader()
    lab.disconnect(first)
    lost = [lab.fresh() for _ in range(3)]
    lab.propose(first, *lost)
    lab.agree(2)
    second = lab.leader()
    lab.disconnect(second)
    lab.connect(first)
    lab.agree(2)
    lab.connect(second)
    lab.agree(3)
    assert not set(lost) & set(lab.applied.values())


def test_long_logs_that_parted_meet_again_within_few_exchanges() -> None:
    lab = Lab(5)
    lab.agree()
    first = lab.leader()
    friend, *others = [number for number in lab.numbers if number != first]
    lab.disconnect(*others)
    lab.propose(first, *(lab.fresh() for _ in range(50)))
    lab.tick(2)
    lab.disconnect(first, friend)
    lab.connect(*others)
    for _ in range(50):
        lab.agree(3)
    second = lab.leader()
    straggler = next(number for number in others if number != second)
    lab.disconnect(straggler)
    lab.propose(second, *(lab.fresh() for _ in range(50)))
    lab.tick(2)
    lab.disconnect(*others)
    lab.connect(first, friend, straggler)
    before = sum(lab[number].core.statistics().rejections for number in lab.numbers)
    for _ in range(50):
        lab.agree(3)
    lab.connect(*lab.numbers)
    lab.agree(5)
    rejections = sum(lab[number].core.statistics().rejections for number in lab.numbers) - before
    assert rejections < 40, "a question a term, not a question an entry"


def test_no_more_is_said_than_is_needed() -> None:
    lab = Lab(3)
    lab.leader()
    assert len(lab.sent) < 60, "an election"
    lab.agree()
    lab.sent.clear()
    lab.propose(lab.leader(), *(lab.fresh() for _ in range(10)))
    lab.tick()
    assert len(lab.sent) <= 16, "ten entries that travel together"
    lab.sent.clear()
    lab.tick(ELECTION)
    assert len(lab.sent) <= 4 * ELECTION, "an idle second"
    assert {message.kind for message in lab.sent} == {MessageKind.HEARTBEAT, MessageKind.HEARTBEAT_RESPONSE}


# What survives.


def test_agreement_goes_on_over_crashes_of_all_and_of_one() -> None:
    lab = Lab(3)
    first = lab.agree()
    lab.crash(*lab.numbers)
    lab.start(*lab.numbers)
    assert lab.agree() > first
    leader = lab.leader()
    lab.crash(leader)
    lab.start(leader)
    lab.agree()
    leader = lab.leader()
    lab.crash(leader)
    lab.agree(2)
    lab.start(leader)
    lab.agree(3)


@pytest.mark.parametrize("seed", range(2))
def test_five_replicas_crash_in_turn_and_nothing_is_lost(seed: int) -> None:
    lab = Lab(5, seed=seed)
    for _ in range(5):
        lab.agree()
        leader = lab.leader()
        others = [number for number in lab.numbers if number != leader]
        lab.crash(*others[:2])
        lab.agree(3)
        lab.crash(leader, *others[2:])
        lab.start(others[0], others[1])
        lab.start(leader)
        lab.agree(3)
        lab.start(*others[2:])
    lab.agree()


def test_a_leader_and_one_follower_crash_while_the_other_was_away() -> None:
    lab = Lab(3)
    lab.agree()
    leader = lab.leader()
    one, other = (number for number in lab.numbers if number != leader)
    lab.disconnect(other)
    kept = lab.agree(2)
    lab.crash(leader, one)
    lab.connect(other)
    lab.start(leader)
    assert lab.agree(2) > kept
    lab.start(one)
    lab.agree()


def test_leaders_that_crash_in_the_middle_never_undo_what_was_applied() -> None:
    """Figure 8, at random: a leader crashes soon after it took an entry, and only a bare majority lives."""
    lab = Lab(5, seed=4)
    lab.agree()
    for _ in range(60):
        for number in lab.leaders():
            lab.propose(number, lab.fresh())
        lab.tick(lab.random.randrange(1, 4) if lab.random.random() < 0.7 else 2 * ELECTION)
        for number in lab.leaders():
            lab.crash(number)
        if len(lab.numbers) - len(lab.dead) < lab.majority:
            lab.start(lab.random.choice(sorted(lab.dead)))
    lab.start(*lab.dead)
    lab.agree()


def test_agreement_goes_on_over_a_bad_network() -> None:
    lab = Lab(5, loss=0.1, held_share=0.1)
    for _ in range(20):
        leader = lab.leader()
        lab.propose(leader, lab.fresh(), lab.fresh())
        lab.agree(3)
    lab.loss = 0.0
    lab.agree(5)


def test_leaders_that_are_cut_off_over_a_network_that_reorders_never_undo_what_was_applied() -> None:
    lab = Lab(5, seed=8, loss=0.1, held_share=0.3)
    away: list[int] = []
    for _ in range(60):
        for number in lab.leaders():
            lab.propose(number, lab.fresh())
        lab.tick(lab.random.randrange(1, 2 * ELECTION))
        for number in lab.leaders():
            if lab.random.random() < 0.5:
                away.append(number)
                lab.disconnect(number)
        if len(lab.numbers) - len(away) < lab.majority:
            lab.connect(away.pop(0))
    lab.connect(*lab.numbers)
    lab.loss = lab.held_share = 0.0
    lab.agree()


@pytest.mark.parametrize("loss", [0.0, 0.1], ids=["over_a_good_network", "over_a_bad_network"])
def test_everything_comes_and_goes_and_every_confirmed_payload_stays(loss: float) -> None:
    lab = Lab(5, seed=2, loss=loss, held_share=loss)
    confirmed: list[tuple[int, bytes]] = []
    for _ in range(60):
        number = lab.random.choice(lab.numbers)
        match lab.random.randrange(4):
            case 0:
                lab.disconnect(number)
            case 1:
                lab.connect(*lab.numbers)
            case 2 if len(lab.dead) < 2:
                lab.crash(number)
            case _:
                lab.start(*lab.dead)
        payload = lab.fresh()
        for leader in lab.leaders():
            try:
                index = lab.propose(leader, payload)
            except ProposalRefused:
                continue
            lab.tick(ELECTION // 2)
            if lab.applied.get(index) == payload:
                confirmed.append((index, payload))
        lab.tick(ELECTION)
    lab.start(*lab.numbers)
    lab.connect(*lab.numbers)
    lab.loss = lab.held_share = 0.0
    lab.agree()
    assert len(confirmed) > 5
    assert all(lab.applied[index] == payload for index, payload in confirmed)


# Snapshots.


def _fill(lab: Lab, *, rounds: int = 8, disconnects: bool = False, crashes: bool = False) -> None:
    lab.agree()
    for turn in range(rounds):
        leader = lab.leader()
        victim = leader if turn % 3 == 1 else next(number for number in lab.numbers if number != leader)
        if disconnects:
            lab.disconnect(victim)
        if crashes:
            lab.crash(victim)
        needed = 2 if disconnects or crashes else 3
        lab.agree(needed)
        for _ in range(12):
            lab.agree(needed)
        lab.connect(victim)
        lab.start(victim)
        lab.agree(3)


def test_a_log_is_forgotten_below_its_snapshot_and_agreement_goes_on() -> None:
    lab = Lab(3, snapshots_every=10)
    _fill(lab)
    assert all(lab[number].disk.first_index() > 50 for number in lab.numbers)
    assert all(len(lab[number].disk.all_entries()) <= 12 for number in lab.numbers)


@pytest.mark.parametrize(
    ("loss", "disconnects", "crashes"),
    [(0.0, True, False), (0.1, True, False), (0.0, False, True), (0.1, False, True)],
    ids=["was_away", "was_away_over_a_bad_network", "crashed", "crashed_over_a_bad_network"],
)
def test_who_lacks_what_was_forgotten_gets_a_snapshot(loss: float, disconnects: bool, crashes: bool) -> None:
    lab = Lab(3, loss=loss, held_share=loss, snapshots_every=10)
    _fill(lab, disconnects=disconnects, crashes=crashes)
    assert any(message.kind is MessageKind.SNAPSHOT for message in lab.sent)


def test_all_crash_time_and_again_and_go_on_from_their_snapshots() -> None:
    lab = Lab(3, snapshots_every=10)
    last = lab.agree()
    for _ in range(5):
        for _ in range(8):
            lab.agree()
        lab.crash(*lab.numbers)
        lab.start(*lab.numbers)
        following = lab.agree()
        assert following > last + 8
        last = following


def test_a_snapshot_is_where_a_replica_begins_after_a_crash() -> None:
    lab = Lab(3, snapshots_every=10)
    for _ in range(12):
        lab.agree()
    bases = {number: lab[number].base for number in lab.numbers}
    assert min(bases.values()) >= 10
    lab.crash(*lab.numbers)
    assert all(lab[number].core.applied == bases[number] for number in lab.numbers)
    assert all(lab[number].core.commit >= bases[number] for number in lab.numbers)
    lab.start(*lab.numbers)
    lab.agree()
