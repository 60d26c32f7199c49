from __future__ import annotations

import gc
import json
import logging
import resource
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from logbroker.config import load_settings
from logbroker.errors import ConfigurationError
from logbroker.server.logs import JsonFormatter, TextFormatter
from logbroker.server.main import Server, TlsContexts, calm_collector, raise_open_files

if TYPE_CHECKING:
    from pathlib import Path


def record(*, failed: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("planted")
    except ValueError:
        info = sys.exc_info() if failed else None
    made = logging.LogRecord("logbroker.x", logging.WARNING, "x.py", 1, "link_up node=%d", (3,), info)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    return made


def test_a_line_of_text_has_time_level_logger_and_event() -> None:
    line = TextFormatter().format(record())
    assert line == "2023-11-14T22:13:20.250Z warning logbroker.x link_up node=3"
    assert "ValueError: planted" in TextFormatter().format(record(failed=True))


def test_a_line_of_json_has_the_event_by_itself() -> None:
    fields = json.loads(JsonFormatter().format(record()))
    assert (fields["event"], fields["level"], fields["message"]) == ("link_up", "warning", "link_up node=3")
    assert "ValueError: planted" in json.loads(JsonFormatter().format(record(failed=True)))["exception"]


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 256), before[1]))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_collector_of_circles_still_looks_though_seldom() -> None:
    before = gc.get_threshold()
    try:
        calm_collector()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert 0 < before[0] < gc.get_threshold()[0] <= 100_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


async def test_a_port_that_is_taken_is_named_before_anything_is_opened(tmp_path: Path) -> None:
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = taken.socket.getsockname()[1]
    flags = {"node.data_dir": tmp_path / "data", "listeners.client.port": port, "listeners.admin.port": 0}
    with pytest.raises(ConfigurationError, match=f"listeners.client cannot listen on 127.0.0.1:{port}"):
        await Server(load_settings(flags=flags, use_file=False).settings).run(handles_signals=False)
    assert not (tmp_path / "data").exists()
    await taken.aclose()


def test_a_node_open_to_the_network_without_tls_and_tokens_is_refused_unless_told(tmp_path: Path) -> None:
    flags = {"node.data_dir": tmp_path, "listeners.client.host": "0.0.0.0"}
    with pytest.raises(ConfigurationError, match=r"without TLS \(tls_cert, tls_key\) and auth.tokens = true"):
        load_settings(flags=flags, use_file=False)
    load_settings(flags={**flags, "listeners.client.insecure": True}, use_file=False)


def test_certificates_that_cannot_be_read_again_leave_the_old_ones_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    flags: dict[str, object] = {"listeners.client.tls_cert": cert, "listeners.client.tls_key": key}
    contexts = TlsContexts(load_settings(flags=flags, use_file=False).settings)
    before = contexts.client
    assert before is not None
    assert contexts.admin is None
    contexts.reload()
    assert contexts.client is not before
    after = contexts.client
    cert.write_text("not a certificate")
    contexts.reload()
    assert contexts.client is after
    assert "tls_reload_failed" in caplog.text
