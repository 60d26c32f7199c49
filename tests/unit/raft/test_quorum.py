from __future__ import annotations

from itertools import product

import pytest

from logbroker.ids import Index, ReplicaId
from logbroker.raft.quorum import (
    EVERYTHING,
    VoteResult,
    joint_index,
    joint_vote_result,
    majority_index,
    vote_result,
)


def indexes(*values: int) -> list[Index]:
    return [Index(value) for value in values]


@pytest.mark.parametrize(
    ("acknowledged", "committed"),
    [((7,), 7), ((7, 3), 3), ((7, 3, 5), 5), ((9, 0, 0), 0), ((4, 3, 2, 1), 2), ((5, 4, 3, 2, 1), 3)],
)
def test_a_majority_has_reached_the_committed_index(acknowledged: tuple[int, ...], committed: int) -> None:
    assert majority_index(indexes(*acknowledged)) == committed


def test_the_empty_majority_commits_everything_and_wins() -> None:
    assert majority_index([]) == EVERYTHING
    assert vote_result([], {}) is VoteResult.WON


def test_a_joint_commit_needs_both_majorities() -> None:
    assert joint_index(indexes(9, 9, 1), indexes(4, 4, 9)) == 4
    assert joint_index(indexes(3), []) == 3


def test_votes_agree_with_counting_them_for_up_to_five_voters() -> None:
    for count in range(1, 6):
        voters = [ReplicaId(voter) for voter in range(1, count + 1)]
        for answers in product((True, False, None), repeat=count):
            votes = {voter: answer for voter, answer in zip(voters, answers, strict=True) if answer is not None}
            granted, refused = answers.count(True), answers.count(False)
            expected = VoteResult.PENDING
            if 2 * granted > count:
                expected = VoteResult.WON
            elif 2 * (count - refused) <= count:
                expected = VoteResult.LOST
            assert vote_result(voters, votes) is expected


def test_one_lost_half_loses_a_joint_vote_and_one_pending_half_leaves_it_open() -> None:
    first, second, third = ReplicaId(1), ReplicaId(2), ReplicaId(3)
    assert joint_vote_result([first], [second], {first: True, second: False}) is VoteResult.LOST
    assert joint_vote_result([first], [second], {first: True}) is VoteResult.PENDING
    assert joint_vote_result([first], [second, third], {first: False}) is VoteResult.LOST
    assert joint_vote_result([first], [second], {first: True, second: True}) is VoteResult.WON
