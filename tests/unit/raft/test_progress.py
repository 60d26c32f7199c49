from __future__ import annotations

import pytest

from logbroker.errors import InvariantError
from logbroker.ids import Index
from logbroker.raft.progress import Inflights, Progress, ProgressState


def make(match: int = 0, next_index: int = 1, *, count: int = 3, size: int = 100) -> Progress:
    progress = Progress(Index(next_index), Inflights(max_count=count, max_bytes=size), is_learner=False)
    progress.match = Index(match)
    return progress


def replicating(match: int = 5, **window: int) -> Progress:
    progress = make(match, **window)
    progress.become_replicate()
    return progress


def test_the_window_is_full_by_messages_or_by_bytes() -> None:
    by_count, by_bytes = Inflights(max_count=2, max_bytes=100), Inflights(max_count=9, max_bytes=100)
    seen = []
    for last in (1, 2):
        by_count.add(Index(last), 1)
        by_bytes.add(Index(last), 99)
        seen.append((by_count.is_full, by_bytes.is_full))
    assert seen == [(False, False), (True, True)]
    with pytest.raises(InvariantError):
        by_bytes.add(Index(3), 1)


def test_an_acknowledgement_frees_every_message_at_or_below_it() -> None:
    window = Inflights(max_count=9, max_bytes=100)
    for last in (3, 5, 7):
        window.add(Index(last), 10)
    window.free_through(Index(2))
    assert len(window) == 3
    window.free_through(Index(6))
    assert (len(window), window.size_bytes) == (1, 10)
    window.clear()
    assert (len(window), window.size_bytes) == (0, 0)


def test_a_probe_with_entries_waits_and_an_empty_one_does_not() -> None:
    progress = make()
    seen = []
    for count in (0, 4, 0):
        progress.on_sent(count, 10 * count)
        seen.append(progress.is_paused)
    assert seen == [False, True, True]
    assert progress.next == 1


def test_replication_goes_on_until_the_window_is_full() -> None:
    progress = replicating(count=2)
    progress.on_sent(2, 10)
    assert (progress.next, progress.is_paused) == (8, False)
    progress.on_sent(1, 10)
    assert (progress.next, progress.is_paused) == (9, True)


def test_an_append_to_a_follower_in_snapshot_is_our_own_mistake() -> None:
    progress = make()
    progress.become_snapshot(Index(9))
    with pytest.raises(InvariantError):
        progress.on_sent(1, 1)


def test_an_acknowledgement_moves_match_and_next_forward_only() -> None:
    progress = replicating()
    progress.on_sent(4, 10)
    assert progress.on_accepted(Index(7))
    assert (progress.match, progress.next) == (7, 10)
    assert not progress.on_accepted(Index(7))
    assert progress.on_accepted(Index(12))
    assert (progress.match, progress.next) == (12, 13)


def test_a_rejection_in_replication_sends_again_from_the_match() -> None:
    progress = replicating()
    progress.on_sent(4, 10)
    progress.sent_commit = Index(8)
    assert not progress.on_rejected(Index(5), Index(2))
    assert progress.on_rejected(Index(9), Index(2))
    assert (progress.next, progress.sent_commit) == (6, 5)


def test_a_rejected_probe_falls_back_to_the_hint_but_never_below_the_match() -> None:
    progress = make(match=2, next_index=10)
    progress.on_sent(1, 1)
    assert not progress.on_rejected(Index(4), Index(3))
    assert progress.on_rejected(Index(9), Index(5))
    assert (progress.next, progress.is_paused) == (6, False)
    assert progress.on_rejected(Index(5), Index(0))
    assert progress.next == 3


def test_a_hint_beyond_the_probe_still_makes_progress() -> None:
    progress = make(next_index=10)
    assert progress.on_rejected(Index(9), Index(50))
    assert progress.next == 9


def test_a_snapshot_pauses_until_it_ends() -> None:
    progress = make(match=2)
    progress.become_snapshot(Index(20))
    progress.resume()
    assert (progress.is_paused, progress.next, progress.pending_snapshot) == (True, 21, 20)
    assert not progress.on_rejected(Index(20), Index(3))
    progress.on_accepted(Index(4))
    assert progress.is_paused
    progress.become_probe()
    assert (progress.state, progress.next, progress.is_paused) == (ProgressState.PROBE, 21, False)


def test_a_commit_index_is_worth_sending_only_if_it_tells_something() -> None:
    progress = replicating()
    progress.sent_commit = Index(3)
    assert progress.can_bump_commit(Index(4))
    assert not progress.can_bump_commit(Index(3))
    progress.sent_commit = Index(5)
    assert not progress.can_bump_commit(Index(9))
