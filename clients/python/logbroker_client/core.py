"""The client without I/O: links, routes, calls and lanes, driven by a transport.

The transport dials the links that `take_dials` gives, hands in what happens to them, runs the timers,
and sends what each link's protocol has after `pump`. Requests of partitions go to the node that leads
them; who that is comes from metadata and from NOT_LEADER replies, and is asked for again whenever it
turns out wrong.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, final

from logbroker.errors import LogBrokerError, RequestError, UnavailableError
from logbroker.wire.frames import FrameLimits
from logbroker.wire.protocol import ClientProtocol, State
from logbroker.wire.requests import Hello, Metadata, MetadataReply, WireLimits
from logbroker_client.backoff import Backoff
from logbroker_client.calls import Anywhere, Call
from logbroker_client.links import Link, LinkState
from logbroker_client.routing import Routes
from logbroker_client.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from logbroker.wire.requests import AnyReply, AnyRequest, Error
    from logbroker_client.calls import Route
    from logbroker_client.options import ClientOptions
    from logbroker_client.pending import Asked, Environment, Lane

CLIENT_NAME = "logbroker-python/0.1.0"

# How often deadlines are looked at: they are kept to within this.
SWEEP_S = 0.1
# A node that owes an answer and is silent for so long is asked for a sign; without one after as long again, others are
# asked who leads in its place. Most receives wait for longer than that, so by itself it means nothing.
SILENCE_S = 0.5
# Metadata is asked for again after this, to see queues grow.
REFRESH_S = 30.0
# Links kept open without a partition to go to, when any node will do.
_SPARE_DIALS = 3


@final
class _Unheard:
    """Behind a request whose answer makes no difference."""

    def on_reply(self, reply: AnyReply, body: bytes) -> None: ...

    def on_lost(self) -> None: ...


_UNHEARD = _Unheard()


@final
class ClientCore:
    """State of one client; every method is synchronous and may be called between any two others."""

    def __init__(self, urls: Sequence[str], *, env: Environment, options: ClientOptions) -> None:
        self.env = env
        self.options = options
        self.session = env.new_id()
        self.routes = Routes()
        # As the last server to welcome us stated them.
        self.limits = WireLimits()
        self.timers = Timers()
        self._backoff = Backoff()
        # Work waits for what is asked, and whoever is elected should not wait for us.
        self._refresh_backoff = Backoff(max_s=0.4)
        self._links: dict[str, Link] = {}
        self._by_node: dict[int, Link] = {}
        self._dials: list[Link] = []
        self._calls: dict[Call, None] = {}
        # Calls that wait for a link, in order.
        self._waiting: dict[Call, None] = {}
        # Lanes with something that is not settled yet.
        self._busy: dict[Lane, None] = {}
        # Lanes that may have something to send; each is busy too.
        self._marked: list[Lane] = []
        self._is_sweeping = False
        # Per queue whose metadata is asked for: how often in a row that did not help.
        self._refreshing: dict[str, int] = {}
        self._next_request_id = 1
        self._watched: dict[str, int] = {}
        self._closed_by: LogBrokerError | None = None
        # Looked at for every message that is sent or acked.
        self.is_closed = False
        for url in urls:
            self._link(url)
        self._seeds = tuple(self._links)

    # --- links, driven by the transport ---

    def take_dials(self) -> list[Link]:
        """Links to connect; the transport reports each with `link_connected` or `link_lost`."""
        dials, self._dials = self._dials, []
        return dials

    def link_connected(self, link: Link) -> None:
        """The WebSocket is there; the Hello waits in the link's protocol."""
        max_bytes = self.options.max_message_bytes
        link.protocol = ClientProtocol(
            frame_limits=FrameLimits(max_message_bytes=max_bytes, max_header_bytes=max_bytes, max_body_bytes=max_bytes)
        )
        link.heard_at = self.env.clock()
        link.protocol.greet(
            Hello(
                link.protocol.take_rid(),
                token=self.options.token,
                client=self.options.name or CLIENT_NAME,
                session=self.session,
            )
        )
        link.wake()

    def received(self, link: Link, message: bytes) -> None:
        """Take one message of a link.

        Raises:
            LogBrokerError: the connection is of no more use; the transport reports it with `link_lost`.
        """
        protocol = link.protocol
        if protocol is None:
            return
        link.heard_at = self.env.clock()
        link.is_missed, link.missed = False, ()
        for asked, reply, body in protocol.receive(message):
            asked.on_reply(reply, body)
        if link.state is LinkState.DIALING and protocol.state is State.OPEN:
            self._on_welcome(link)
        if self._waiting:
            self.retry_waiting()
        if self._marked:
            link.wake()

    def _on_welcome(self, link: Link) -> None:
        if link.protocol is None or link.protocol.welcome is None:
            return
        link.state = LinkState.OPEN
        link.failure_count = 0
        link.error = None
        link.node = link.protocol.welcome.node
        self.limits = link.protocol.limits
        self._by_node[link.node] = link
        self._arm_ping(link, link.protocol)
        self.retry_waiting()
        self.mark_all()

    def link_lost(self, link: Link, error: LogBrokerError) -> None:
        """The connection could not be made, ended, or broke. What it had outstanding is unknown."""
        protocol = link.protocol
        link.detach()
        link.state = LinkState.RESTING
        if self.routes.urls.get(self.routes.meta_leader) == link.url or link.node == self.routes.meta_leader:
            # Any node knows who leads after it.
            self.routes.meta_leader = 0
        if self._by_node.get(link.node) is link:
            del self._by_node[link.node]
            for other in self._links.values():
                # The same node by another address.
                if other.node == link.node and other.state is LinkState.OPEN:
                    self._by_node[other.node] = other
        link.error = error
        link.failure_count += 1
        for asked in protocol.close() if protocol is not None else ():
            asked.on_lost()
        rest_s = self._backoff.delay_s(link.failure_count, chance=self.env.chance())
        self.add_timer(rest_s, partial(self._wake_link, link))
        if isinstance(error, RequestError) and not any(other.state is LinkState.OPEN for other in self._links.values()):
            # The cluster does not want us: nobody has to wait for the deadline to learn it.
            for call in list(self._calls):
                call.fail(type(error)(error.message, hint=error.hint))
        self.retry_waiting()
        self.mark_all()

    def _wake_link(self, link: Link) -> None:
        if link.state is LinkState.RESTING:
            link.state = LinkState.IDLE
            self.retry_waiting()
            self.mark_all()

    def _arm_ping(self, link: Link, protocol: ClientProtocol[Asked]) -> None:
        server_s = protocol.welcome.ping_ms / 1000 if protocol.welcome is not None else 1.0
        interval_s = max(0.01, min(self.options.ping_interval_s, server_s))

        def beat() -> None:
            if link.protocol is not protocol or protocol.state is not State.OPEN:
                return
            if self.env.clock() - link.heard_at >= 2 * interval_s:
                link.abort()
                return
            self._ping(link)
            self.add_timer(interval_s, beat)

        self.add_timer(interval_s, beat)

    def _ping(self, link: Link) -> None:
        if link.protocol is not None and link.protocol.ping():
            link.pinged_at = self.env.clock()
            link.wake()

    def _look_after(self, link: Link, now: float) -> None:
        """Notice a node that has gone silent: its machine may be gone, and the connection does not tell."""
        protocol = link.protocol
        if protocol is None or link.state is not LinkState.OPEN or now - link.heard_at < SILENCE_S:
            return
        if link.pinged_at < link.heard_at:
            if protocol.outstanding_count:
                self._ping(link)
        elif now - link.pinged_at >= SILENCE_S:
            self._miss(link)

    def _miss(self, link: Link) -> None:
        """Ask others who leads what this node led. Only when somebody does is the connection given up."""
        places = {(lane.queue, lane.partition) for lane in self._busy}
        places |= {call.route for call in self._calls if not isinstance(call.route, Anywhere)}
        link.is_missed = True
        link.missed = tuple(place for place in places if self._leader_of(place) == link.node)
        for call in [call for call in self._calls if call.link is link and isinstance(call.route, Anywhere)]:
            if call.is_repeatable:
                # Others can answer it too, or know who can.
                self._try(call)
        for queue in {queue for queue, _ in link.missed}:
            self.refresh(queue)

    def _leader_of(self, place: tuple[str, int]) -> int:
        route = self.routes.partition(*place)
        return 0 if route is None else route.leader

    def _leave_missed(self) -> None:
        """Give up the connections to nodes that are silent and have been followed by others."""
        for link in list(self._by_node.values()):
            if any(self._leader_of(place) not in (0, link.node) for place in link.missed):
                link.abort()

    def _link(self, url: str) -> Link:
        link = self._links.get(url)
        if link is None:
            link = self._links[url] = Link(url)
        return link

    def _know_links(self) -> None:
        """A link for every address that is known, and none for those that are not any more."""
        known = {*self._seeds, *self.routes.urls.values()}
        for url in known:
            self._link(url)
        for link in [link for link in self._links.values() if link.url not in known]:
            if link.state is LinkState.IDLE or link.state is LinkState.RESTING:
                del self._links[link.url]

    def _want(self, link: Link) -> None:
        if link.state is LinkState.IDLE:
            link.state = LinkState.DIALING
            self._dials.append(link)
            self.env.on_work()

    def _any_link(self) -> Link | None:
        links = [link for link in self._links.values() if link.state is LinkState.OPEN]
        answering = [link for link in links if not link.is_missed]
        if answering:
            return answering[int(self.env.chance() * len(answering))]
        self._dial_others(_SPARE_DIALS)
        if links and all(link.state is LinkState.OPEN for link in self._links.values()):
            # Nobody else is to be had, and none of them may really be gone.
            return links[int(self.env.chance() * len(links))]
        return None

    def _dial_others(self, most: int) -> None:
        """Dial nodes that there is no link to, until `most` are being dialled."""
        for url in self.routes.urls.values():
            self._link(url)
        idle = [link for link in self._links.values() if link.state is LinkState.IDLE]
        busy_count = sum(link.state is LinkState.DIALING for link in self._links.values())
        for _ in range(min(len(idle), most - busy_count)):
            self._want(idle.pop(int(self.env.chance() * len(idle))))

    def _node_link(self, node: int) -> Link | None:
        """The open link to a node; None, and it is dialled, when there is none."""
        link = self._by_node.get(node)
        if link is None:
            url = self.routes.urls.get(node)
            if url is None:
                return None
            link = self._link(url)
            self._want(link)
        return link if link.state is LinkState.OPEN else None

    def leader_link(self, queue: str, partition: int) -> Link | None:
        """The open link to a partition's leader. None: something is under way that ends in `mark_all`."""
        route = self.routes.partition(queue, partition)
        link = None
        if route is not None and route.leader:
            link = self._node_link(route.leader)
        if link is None:
            self.refresh(queue)
        elif queue in self._refreshing and not link.is_missed:
            self._refreshing[queue] = 0
        return link

    def has_leader_link(self, queue: str, partition: int) -> bool:
        """Whether the partition's leader can be reached at once."""
        route = self.routes.partition(queue, partition)
        return route is not None and route.leader in self._by_node

    def link_errors(self) -> list[str]:
        """Why links are down, for those who report that nothing could be done."""
        return [f"{link.url}: {link.error.message}" for link in self._links.values() if link.error is not None]

    # --- timers ---

    def add_timer(self, delay_s: float, action: Callable[[], None]) -> None:
        if self.timers.add(self.env.clock() + delay_s, action):
            self.env.on_work()

    def run_timers(self) -> None:
        self.timers.run(self.env.clock())

    def _arm_sweep(self) -> None:
        if not self._is_sweeping:
            self._is_sweeping = True
            self.add_timer(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now = self.env.clock()
        for link in list(self._by_node.values()):
            self._look_after(link, now)
        for call in [call for call in self._calls if call.deadline <= now]:
            call.expire()
        for lane in list(self._busy):
            # A marked lane stays: what comes to it is not marked again, and would be looked after by nobody.
            if not lane.sweep(now) and not lane.is_marked:
                self._busy.pop(lane, None)
        self._is_sweeping = False
        if self._calls or self._busy:
            self._arm_sweep()

    # --- metadata ---

    def watch(self, queue: str) -> None:
        """Keep asking for a queue's metadata now and then; it is known already."""
        count = self._watched.get(queue, 0)
        self._watched[queue] = count + 1
        if not count:
            self.add_timer(REFRESH_S, partial(self._refresh_watched, queue))

    def unwatch(self, queue: str) -> None:
        count = self._watched.get(queue, 0)
        if count > 1:
            self._watched[queue] = count - 1
        else:
            self._watched.pop(queue, None)

    def _refresh_watched(self, queue: str) -> None:
        if queue in self._watched:
            self.refresh(queue)
            self.add_timer(REFRESH_S, partial(self._refresh_watched, queue))

    def refresh(self, queue: str) -> None:
        """Ask for a queue's metadata; at once the first time, then with growing pauses while it does not help."""
        if queue not in self._refreshing:
            self._refreshing[queue] = 0
            self._ask(queue)

    def _ask(self, queue: str) -> None:
        self.ask_metadata([queue], timeout_s=self.options.timeout_s, on_done=partial(self._on_refreshed, queue))

    def _on_refreshed(self, queue: str, _call: Call) -> None:
        self._refreshing[queue] += 1
        failure_count = self._refreshing[queue]
        self._leave_missed()
        self.retry_waiting()
        self.mark_all()
        pause_s = self._refresh_backoff.delay_s(failure_count, chance=self.env.chance())
        self.add_timer(pause_s, partial(self._end_refresh, queue))

    def _end_refresh(self, queue: str) -> None:
        failure_count = self._refreshing.pop(queue, 0)
        if not self._needs(queue):
            return
        self._refreshing[queue] = failure_count
        # Those who were asked may be the ones that hear of nothing.
        self._dial_others(1)
        self._ask(queue)

    def _needs(self, queue: str) -> bool:
        """Whether work waits for a partition of this queue whose leader cannot be reached, or does not answer."""
        lanes = {lane.partition for lane in self._busy if lane.queue == queue}
        calls = {
            call.route[1] for call in self._waiting if not isinstance(call.route, Anywhere) and call.route[0] == queue
        }
        if any(queue == place[0] for link in self._by_node.values() for place in link.missed):
            return True
        for partition in lanes | calls:
            route = self.routes.partition(queue, partition)
            link = self._by_node.get(route.leader) if route is not None else None
            if link is None or link.state is not LinkState.OPEN:
                return True
        return False

    def ask_metadata(
        self, queues: list[str] | None, *, timeout_s: float, on_done: Callable[[Call], None] | None = None
    ) -> Call:
        def learn(call: Call) -> None:
            if isinstance(call.reply, MetadataReply):
                self.routes.learn(call.reply, asked=queues)
                self._know_links()
            if on_done is not None:
                on_done(call)

        return self.call(
            lambda rid: Metadata(rid, queues=queues),
            route=Anywhere.ANY,
            timeout_s=timeout_s,
            is_repeatable=True,
            on_done=learn,
        )

    # --- calls ---

    def take_request_id(self) -> int:
        """A number for an idempotent receive, never used before in this session."""
        request_id = self._next_request_id
        self._next_request_id += 1
        return request_id

    def call(
        self,
        build: Callable[[int], AnyRequest],
        *,
        route: Route,
        timeout_s: float,
        is_repeatable: bool,
        on_done: Callable[[Call], None] | None = None,
        on_push: Callable[[AnyReply, bytes], None] | None = None,
    ) -> Call:
        """Start a request and see it through; `build` makes it for a rid, once for each attempt."""
        call = Call(
            self,
            build,
            route=route,
            deadline=self.env.clock() + timeout_s,
            is_repeatable=is_repeatable,
            on_done=on_done,
            on_push=on_push,
        )
        if self._closed_by is not None:
            call.fail(self._closed_by)
            return call
        self._calls[call] = None
        self._arm_sweep()
        self._try(call)
        return call

    def tell(self, link: Link, build: Callable[[int], AnyRequest]) -> bool:
        """Send a request on this link and no other, whose answer makes no difference; False where it takes none."""
        protocol = link.protocol
        if protocol is None or not protocol.can_send():
            return False
        protocol.send(build(protocol.take_rid()), _UNHEARD)
        link.wake()
        return True

    def _try(self, call: Call) -> None:
        link = self._link_for(call.route)
        if link is None or link.protocol is None or not link.protocol.can_send():
            self._waiting[call] = None
            return
        self._waiting.pop(call, None)
        call.link = link
        link.protocol.send(call.build(link.protocol.take_rid()), call)
        link.wake()

    def _link_for(self, route: Route) -> Link | None:
        if route is Anywhere.ANY:
            return self._any_link()
        if route is Anywhere.META:
            link = self._node_link(self.routes.meta_leader) if self.routes.meta_leader else None
            # A leader that does not answer may have a follower, of whom the others know.
            return self._any_link() if not self.routes.meta_leader or (link is not None and link.is_missed) else link
        return self.leader_link(*route)

    def retry_waiting(self) -> None:
        for call in list(self._waiting):
            if call in self._waiting:
                self._try(call)

    def retry_later(self, call: Call, failure_count: int) -> None:
        """Try a call again after a pause, which the first failure does not have."""
        pause_s = self._backoff.delay_s(failure_count - 1, chance=self.env.chance()) if failure_count > 1 else 0.0
        self.add_timer(pause_s, partial(self._retry, call))

    def _retry(self, call: Call) -> None:
        if not call.is_done:
            self._try(call)

    def forget(self, call: Call) -> None:
        self._calls.pop(call, None)
        self._waiting.pop(call, None)

    def abandon(self, call: Call) -> None:
        """Nobody waits for it any more: it is not tried again, and may or may not have been carried out."""
        call.fail(UnavailableError("abandoned"))

    def redirect(self, route: Route, link: Link | None, reply: Error) -> None:
        """Follow a NOT_LEADER."""
        not_leader = link.node if link is not None else 0
        if route is Anywhere.META:
            if reply.leader_node and reply.leader_url:
                self.routes.urls[reply.leader_node] = reply.leader_url
            is_known = reply.leader_node in self.routes.urls and reply.leader_node != not_leader
            self.routes.meta_leader = reply.leader_node if is_known else 0
            if not is_known:
                self._dial_others(1)
        elif not isinstance(route, Anywhere):
            queue, partition = route
            self.routes.redirect(
                queue, partition, not_leader=not_leader, leader=reply.leader_node, url=reply.leader_url
            )

    # --- lanes ---

    def mark(self, lane: Lane) -> None:
        """A lane may have something to send: its leader's writer looks."""
        self._busy[lane] = None
        self._arm_sweep()
        if not lane.is_marked:
            lane.is_marked = True
            self._marked.append(lane)
            link = self.leader_link(lane.queue, lane.partition)
            if link is not None:
                link.wake()

    def mark_all(self) -> None:
        """Something changed that lanes may have waited for."""
        for lane in list(self._busy):
            self.mark(lane)
        if self._marked:
            for link in self._by_node.values():
                link.wake()

    def drop(self, lane: Lane) -> None:
        """The lane will never have anything to send again."""
        self._busy.pop(lane, None)

    def pump(self) -> None:
        """Let marked lanes make their requests; writers call it before they look for a message."""
        if not self._marked:
            return
        marked, self._marked = self._marked, []
        for lane in marked:
            lane.is_marked = False
            link = self.leader_link(lane.queue, lane.partition)
            if link is None:
                continue
            if lane.pump(link) and not lane.is_marked:
                # The writer of that link pumps again after each message.
                lane.is_marked = True
                self._marked.append(lane)
            if link.protocol is not None and link.protocol.pending_bytes:
                link.wake()

    # --- the end ---

    def close(self, error: LogBrokerError) -> None:
        """Fail everything that waits, and whatever is asked from here on."""
        self._closed_by = error
        self.is_closed = True
        for call in list(self._calls):
            call.fail(error)
        for lane in list(self._busy):
            lane.sweep(float("inf"))
        self._busy.clear()
        self._marked.clear()
        self._waiting.clear()
