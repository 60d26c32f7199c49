"""A process that stands between network namespaces and loses, holds, doubles and spoils the packets of chosen routes.

For kernels without netem, and machines without any firewall tool. Each namespace has a TUN device; while a rule
concerns it, its route to the others leads there. What arrives is dropped, or goes out over the real device after its
delay. Without rules no packet comes by.

It is told by lines of JSON on standard input, and answers each with a line: the rules in force from here on, as a list
of `[source, target, {"drop": 0..1, "delay_ms": n, "jitter_ms": n, "double": 0..1, "spoil": 0..1}]`, hosts by last byte.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from tools.chaos_kit.kernel import enter_network

if TYPE_CHECKING:
    from collections.abc import Sequence

TUN_NAME = "shaped"

_TUNSETIFF = 0x4004_54CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MAX_PACKET_BYTES = 65_536
_IP_HEADER_BYTES = 20
# Packets on their way; beyond it they are lost, as in any queue.
_MAX_HELD_COUNT = 20_000


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the packets from one host to another; shares are between 0 and 1."""

    drop: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    double: float = 0.0
    spoil: float = 0.0


def tun_request(name: str) -> bytes:
    """The argument of TUNSETIFF for a device that gives bare IP packets."""
    return struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)


def read_rules(line: str) -> dict[tuple[int, int], Rule]:
    """The rules of one line of input."""
    return {(source, target): Rule(**values) for source, target, values in json.loads(line)}


@final
class Shaper:
    """Decides about packets; knows nothing of devices, and takes time and chance as they are given."""

    def __init__(self, chance: random.Random) -> None:
        self.rules: dict[tuple[int, int], Rule] = {}
        self._chance = chance
        self._held: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def take(self, source: int, packet: bytes, now: float) -> None:
        """Take a packet that host `source` sends."""
        if len(packet) < _IP_HEADER_BYTES or packet[0] >> 4 != 4:
            return
        rule = self.rules.get((source, packet[19]))
        if rule is None:
            self._hold(now, source, packet)
            return
        if self._chance.random() < rule.drop:
            return
        for _ in range(2 if self._chance.random() < rule.double else 1):
            delay_ms = rule.delay_ms + self._chance.random() * rule.jitter_ms
            self._hold(now + delay_ms / 1000, source, self._spoiled(packet, rule))

    def _spoiled(self, packet: bytes, rule: Rule) -> bytes:
        if not rule.spoil or self._chance.random() >= rule.spoil or len(packet) <= _IP_HEADER_BYTES:
            return packet
        # Behind the header of IP: what TCP's checksum is there to find.
        at = self._chance.randrange(_IP_HEADER_BYTES, len(packet))
        return packet[:at] + bytes((packet[at] ^ (1 << self._chance.randrange(8)),)) + packet[at + 1 :]

    def _hold(self, due: float, source: int, packet: bytes) -> None:
        if len(self._held) < _MAX_HELD_COUNT:
            self._count += 1
            heapq.heappush(self._held, (due, self._count, source, packet))

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """Give the packets whose time has come, with the host that sends each."""
        found = []
        while self._held and self._held[0][0] <= now:
            _, _, source, packet = heapq.heappop(self._held)
            found.append((source, packet))
        return found

    def wait_ms(self, now: float) -> int:
        """How long nothing is due; -1 for ever."""
        return max(0, int((self._held[0][0] - now) * 1000)) if self._held else -1


def main(arguments: Sequence[str]) -> int:
    """Run with arguments `HOST:DESCRIPTOR:DEVICE` each: a namespace and the real device in it."""
    tuns: dict[int, int] = {}
    senders: dict[int, socket.socket] = {}
    for argument in arguments:
        host, handle, device = argument.split(":")
        enter_network(int(handle))
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, tun_request(TUN_NAME))
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        tuns[tun] = int(host)
        senders[int(host)] = sender
    print("ready", flush=True)
    _shape(Shaper(random.Random()), tuns, senders)
    return 0


def _shape(shaper: Shaper, tuns: dict[int, int], senders: dict[int, socket.socket]) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    for tun in tuns:
        poll.register(tun, select.POLLIN)
    text = b""
    while True:
        for handle, _ in poll.poll(shaper.wait_ms(time.monotonic())):
            if handle == 0:
                data = os.read(0, _MAX_PACKET_BYTES)
                if not data:
                    return
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    shaper.rules = read_rules(line.decode())
                    print("ok", flush=True)
            else:
                _drain(shaper, handle, tuns[handle])
        for source, packet in shaper.due(time.monotonic()):
            _send(senders[source], packet)


def _drain(shaper: Shaper, tun: int, host: int) -> None:
    for _ in range(64):
        try:
            packet = os.read(tun, _MAX_PACKET_BYTES)
        except OSError:
            # Empty, or the device is going.
            return
        shaper.take(host, packet, time.monotonic())


def _send(sender: socket.socket, packet: bytes) -> None:
    try:
        sender.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
    except OSError:
        # A full queue or a host that is not there: the packet is lost, as on any wire.
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
