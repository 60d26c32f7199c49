"""`committed` and `vote`: the last line of the expected output is the answer, the rest is a drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logbroker.ids import Index, ReplicaId
from logbroker.raft.quorum import EVERYTHING, VoteResult, joint_index, joint_vote_result, majority_index, vote_result

if TYPE_CHECKING:
    from tests.conformance.etcd.datadriven import Case

_VOTE_TEXT = {VoteResult.PENDING: "VotePending", VoteResult.LOST: "VoteLost", VoteResult.WON: "VoteWon"}
_EMPTY = "<empty majority quorum>"


def run(case: Case) -> str:
    incoming = _voters(case, "cfg")
    outgoing = _voters(case, "cfgj")
    answers = _assign(case, [*incoming, *outgoing])
    match case.command:
        case "committed":
            return _committed(case, incoming, outgoing, answers)
        case "vote":
            return _vote(case, incoming, outgoing, answers)
        case _:
            return f"unknown command {case.command}"


def answer_line(text: str) -> str:
    return text.strip().splitlines()[-1].replace(_EMPTY, "") if text.strip() else ""


def _voters(case: Case, key: str) -> list[ReplicaId]:
    return [ReplicaId(int(value)) for value in case.arguments.get(key, []) if value != "zero"]


def _assign(case: Case, voters: list[ReplicaId]) -> dict[ReplicaId, str]:
    """Give each voter, once and in the order written, its value."""
    values = iter(case.arguments.get("idx", []) + case.arguments.get("votes", []))
    return {voter: next(values, "_") for voter in dict.fromkeys(voters)}


def _committed(case: Case, incoming: list[ReplicaId], outgoing: list[ReplicaId], answers: dict[ReplicaId, str]) -> str:
    def acknowledged(voters: list[ReplicaId]) -> list[Index]:
        return [Index(0) if answers[voter] == "_" else Index(int(answers[voter])) for voter in voters]

    first, second = acknowledged(incoming), acknowledged(outgoing)
    index = joint_index(first, second)
    for other in [joint_index(second, first)] + ([] if "cfgj" in case.arguments else [majority_index(first)]):
        if other != index:
            return f"{index}, but {other} another way"
    return "∞" if index == EVERYTHING else str(index)


def _vote(case: Case, incoming: list[ReplicaId], outgoing: list[ReplicaId], answers: dict[ReplicaId, str]) -> str:
    votes = {voter: answer == "y" for voter, answer in answers.items() if answer != "_"}
    result = joint_vote_result(incoming, outgoing, votes)
    others = [joint_vote_result(outgoing, incoming, votes)]
    if "cfgj" not in case.arguments:
        others.append(vote_result(incoming, votes))
    for other in others:
        if other != result:
            return f"{_VOTE_TEXT[result]}, but {_VOTE_TEXT[other]} another way"
    return _VOTE_TEXT[result]
