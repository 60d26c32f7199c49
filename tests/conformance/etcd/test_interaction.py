"""What the harness takes for equal, and what it says when it does not; the scripts are in our own words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from logbroker.raft import follower
from tests.conformance.etcd.__main__ import main
from tests.conformance.etcd.datadriven import parse
from tests.conformance.etcd.facts import read_facts
from tests.conformance.etcd.interaction import replay_script

if TYPE_CHECKING:
    from pathlib import Path

# One voter elects itself and commits its empty entry and a proposal.
ALONE = """
add-nodes 1 voters=(1) index=3
----
INFO 1 switched to configuration voters=(1)

campaign 1
----
ok

stabilize
----
> 1 handling Ready
  Lead:0 State:StateCandidate
  HardState Term:1 Vote:1 Commit:3
> 1 handling Ready
  Lead:1 State:StateLeader
  Entries:
  1/4 EntryNormal ""
> 1 handling Ready
  HardState Term:1 Vote:1 Commit:4
  CommittedEntries:
  1/4 EntryNormal ""

propose 1 "word"
----
ok

stabilize log-level=none
----
ok

raft-log 1
----
1/4 EntryNormal ""
1/5 EntryNormal "\\"word\\""

raft-state
----
1: StateLeader (Voter) Term:1 Lead:1

status 1
----
1: StateReplicate match=5 next=6
"""

# Three replicas whose disks are told when to be done: the candidate hears from both others before its own disk.
VOTES_BEFORE_THE_OWN = """
add-nodes 3 voters=(1,2,3) index=2 async-storage-writes=true
----
INFO 1 switched to configuration voters=(1 2 3)
INFO 2 switched to configuration voters=(1 2 3)
INFO 3 switched to configuration voters=(1 2 3)

campaign 1
----
ok

process-ready 1
----
Lead:0 State:StateCandidate
HardState Term:1 Vote:1 Commit:2
Messages:
1->2 MsgVote Term:1 Log:1/2
1->3 MsgVote Term:1 Log:1/2

stabilize 2 3 log-level=none
----
ok

deliver-msgs 1
----
2->1 MsgVoteResp Term:1 Log:0/0
3->1 MsgVoteResp Term:1 Log:0/0

raft-state
----
1: StateLeader (Voter) Term:1 Lead:1
2: StateFollower (Voter) Term:1 Lead:0
3: StateFollower (Voter) Term:1 Lead:0
"""

# Two voters, one campaign, until the other knows that the empty entry is committed.
CAMPAIGN = """
add-nodes 2 voters=(1,2) index=2
----
INFO 1 switched to configuration voters=(1 2)
INFO 2 switched to configuration voters=(1 2)

campaign 1
----
ok

stabilize
----
> 1 handling Ready
  Lead:0 State:StateCandidate
  HardState Term:1 Vote:1 Commit:2
  Messages:
  1->2 MsgVote Term:1 Log:1/2
> 2 receiving messages
  1->2 MsgVote Term:1 Log:1/2
> 2 handling Ready
  HardState Term:1 Vote:1 Commit:2
  Messages:
  2->1 MsgVoteResp Term:1 Log:0/0
> 1 receiving messages
  2->1 MsgVoteResp Term:1 Log:0/0
> 1 handling Ready
  Lead:1 State:StateLeader
  Entries:
  1/3 EntryNormal ""
  Messages:
  1->2 MsgApp Term:1 Log:1/2 Commit:2 Entries:[1/3 EntryNormal ""]
> 2 receiving messages
  1->2 MsgApp Term:1 Log:1/2 Commit:2 Entries:[1/3 EntryNormal ""]
> 2 handling Ready
  Lead:1 State:StateFollower
  Entries:
  1/3 EntryNormal ""
  Messages:
  2->1 MsgAppResp Term:1 Log:0/3
> 1 receiving messages
  2->1 MsgAppResp Term:1 Log:0/3
> 1 handling Ready
  HardState Term:1 Vote:1 Commit:3
  CommittedEntries:
  1/3 EntryNormal ""
  Messages:
  1->2 MsgApp Term:1 Log:1/3 Commit:3
> 2 receiving messages
  1->2 MsgApp Term:1 Log:1/3 Commit:3
> 2 handling Ready
  HardState Term:1 Vote:1 Commit:3
  CommittedEntries:
  1/3 EntryNormal ""
  Messages:
  2->1 MsgAppResp Term:1 Log:0/3
> 1 receiving messages
  2->1 MsgAppResp Term:1 Log:0/3
"""

# The new leader's request tells replica 3 that entry 4 is committed; etcd's does not.
COMMIT_BY_VOTE = """
log-level none
----
ok

add-nodes 3 voters=(1,2,3) index=2
----
ok

campaign 1
----
ok

stabilize
----
ok

propose 1 word
----
ok

process-ready 1
----
ok

deliver-msgs 2 3
----
ok

process-ready 2 3
----
ok

deliver-msgs 1
----
ok

process-ready 1
----
ok

deliver-msgs 2 drop=(3)
----
ok

process-ready 2
----
ok

log-level info
----
ok

campaign 2
----
ok

process-ready 2
----
Lead:0 State:StateCandidate
HardState Term:2 Vote:2 Commit:4
Messages:
2->1 MsgVote Term:2 Log:1/4
2->3 MsgVote Term:2 Log:1/4

deliver-msgs 3
----
2->3 MsgVote Term:2 Log:1/4

process-ready 3
----
Lead:0 State:StateFollower
HardState Term:2 Vote:2 Commit:3
Messages:
3->2 MsgVoteResp Term:2 Log:0/0
"""


def _difference(text: str) -> str:
    return replay_script(parse(text, file="own.txt")).difference


def test_a_script_with_the_right_facts_is_equal() -> None:
    assert _difference(ALONE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "place"),
    [
        ("HardState Term:1 Vote:1 Commit:3", "HardState Term:1 Vote:1 Commit:2", "own.txt:10: stabilize"),
        ("HardState Term:1 Vote:1 Commit:4", "HardState Term:1 Commit:4", "own.txt:10: stabilize"),
        ("Lead:0 State:StateCandidate", "Lead:0 State:StatePreCandidate", "own.txt:10: stabilize"),
        ('Entries:\n  1/4 EntryNormal ""\n> 1', "Entries:\n> 1", "own.txt:10: stabilize"),
        ("voters=(1)\n\ncampaign", "voters=(1 2)\n\ncampaign", "own.txt:2: add-nodes"),
        ('1/4 EntryNormal ""\n1/5', '2/4 EntryNormal ""\n1/5', "own.txt:32: raft-log"),
        ("(Voter) Term:1", "(Non-Voter) Term:1", "own.txt:37: raft-state"),
        ("match=5", "match=4", "own.txt:41: status"),
    ],
)
def test_each_kind_of_fact_counts(right: str, wrong: str, place: str) -> None:
    assert right in ALONE
    difference = _difference(ALONE.replace(right, wrong, 1))
    assert difference.startswith(f"{place} (not on purpose): missing ")
    assert difference.endswith("(1 of 8 directives differ)")


def test_a_message_that_is_missing_counts() -> None:
    text = VOTES_BEFORE_THE_OWN.replace("1->3 MsgVote Term:1 Log:1/2\n", "")
    assert "own.txt:12: process-ready (not on purpose): missing nothing; got sent 1->3 MsgVote" in _difference(text)


def test_a_vote_that_is_not_durable_explains_a_leader_that_is_late() -> None:
    reason = "on purpose: a candidate with a majority waits until its own vote is durable"
    assert f"own.txt:29: raft-state ({reason}): missing 1: StateLeader" in _difference(VOTES_BEFORE_THE_OWN)


def test_a_vote_request_explains_a_commit_index_that_is_higher() -> None:
    difference = _difference(COMMIT_BY_VOTE)
    assert ": process-ready (on purpose: vote messages carry the commit index): " in difference
    assert 'got applied: 1/4 EntryNormal "word" | hard state: Term:2 Vote:2 Commit:4' in difference


def test_a_directive_that_is_not_known_ends_the_script() -> None:
    assert _difference(ALONE + "\nunplug 1\n----\nok\n").startswith("own.txt:45: unplug: cannot go on: ValueError")


def test_a_replica_that_is_not_there_ends_the_script() -> None:
    assert _difference(ALONE + "\ncampaign 2\n----\nok\n").startswith("own.txt:45: campaign: cannot go on: KeyError")


@pytest.mark.parametrize(
    "directive",
    ["forget-leader 1", "add-nodes 1 read-only=lease-based", "add-nodes 1 disable-conf-change-validation=true"],
)
def test_a_script_for_what_only_etcd_offers_is_left_out_by_name(
    directive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alone.txt").write_text(ALONE)
    (tmp_path / "other.txt").write_text(f"{ALONE}\n{directive}\n----\nok\n")
    assert main([str(tmp_path)]) == 0
    name, count, result = capsys.readouterr().out.splitlines()
    assert name.startswith("left out: other.txt: ")
    assert (count, result) == ("left out, because only etcd's API has it: 1", "1 of 1")


def test_facts_do_not_depend_on_turns_headings_and_own_threads() -> None:
    first = read_facts(
        'Ready MustSync=true:\nEntries:\n1/4 EntryNormal ""\nMessages:\n'
        '1->2 MsgApp Term:1 Log:1/3 Entries:[\n  1/4 EntryNormal "a"\n  1/5 EntryNormal "b"\n]\n'
        '1->AppendThread MsgStorageAppend Term:0 Log:0/0 Entries:[1/4 EntryNormal ""] Responses:[\n'
        "  1->1 MsgAppResp Term:1 Log:0/4\n  1->2 MsgAppResp Term:1 Log:0/4\n]\nINFO anything\n",
        command="process-ready",
    )
    second = read_facts(
        'Entries:\n1/4 EntryNormal ""\nMessages:\n1->2 MsgAppResp Term:1 Log:0/4\n'
        '1->2 MsgApp Term:1 Log:1/3 Entries:[1/4 EntryNormal "a", 1/5 EntryNormal "b"]\n',
        command="process-ready",
    )
    assert first.as_counter() == second.as_counter()
    assert first.lines != second.lines


def test_every_number_of_a_script_counts() -> None:
    changed = 0
    for case in parse(CAMPAIGN, file="campaign.txt"):
        right = read_facts(case.expected, command=case.command).as_counter()
        for number in re.finditer(r"(?<!> )\d+", case.expected):
            wrong = f"{case.expected[: number.start()]}{int(number[0]) + 1}{case.expected[number.end() :]}"
            assert read_facts(wrong, command=case.command).as_counter() != right, wrong
            changed += 1
    assert changed > 50


def test_a_core_that_does_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _difference(CAMPAIGN) == ""
    monkeypatch.setattr(follower, "_commit", lambda state, index: None)
    assert "stabilize (not on purpose): missing 2 applied: 1/3" in _difference(CAMPAIGN)
