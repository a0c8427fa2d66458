"""Deadlines of connections, and the undocumented parts of urllib3 and requests below them."""

from __future__ import annotations

import os
import socket
import threading
import time
from http.client import HTTPConnection as PlainConnection
from http.client import HTTPResponse
from typing import Any

import pytest
import requests
from airflow.sdk import Connection
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from airflow_vace.client.blocking import Session, send, streamed
from airflow_vace.client.exchange import Exchange
from airflow_vace.client.settings import Settings
from airflow_vace.client.sockets import Adapter, WatchedConnection
from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import VaceTransportError
from support.hostile import http, once, running
from support.scripted import answering, serving


def settings(host: str, **extra: Any) -> Settings:
    connection = Connection(conn_id="c", conn_type="vace", host=host, password="k" * 8)
    return Settings.of(connection, {"timeout": 0.5, **extra})


def silent(peer: socket.socket) -> None:
    """Receive, and never answer."""
    while peer.recv(65536):
        pass


# --- undocumented parts of libraries ---------------------------------------------------------------


def test_all_pools_of_an_adapter_have_watched_connections() -> None:
    adapter = Adapter()
    for manager in (adapter.poolmanager, adapter.proxy_manager_for("http://127.0.0.1:1")):
        pools = {manager.connection_from_url(f"{scheme}://far.example") for scheme in ("http", "https")}
        assert len(pools) == 2
        assert all(issubclass(pool.ConnectionCls, WatchedConnection) for pool in pools)


def test_pools_reuse_a_connection_only_if_it_says_is_connected() -> None:
    asked: list[object] = []

    class Dropped(HTTPConnection):
        @property
        def is_connected(self) -> bool:
            asked.append(self)
            return False

    with serving(once(http(running()))) as url:
        pool = HTTPConnectionPool("127.0.0.1", int(url.rpartition(":")[2]))
        pool.ConnectionCls = Dropped
        # The server closes after a response, so the second request needs a new connection.
        assert [pool.request("GET", "/").status for _ in range(2)] == [200, 200]
    assert asked


def test_http_client_reads_responses_by_the_class_of_the_connection() -> None:
    assert PlainConnection.response_class is HTTPResponse
    assert issubclass(WatchedConnection.response_class, HTTPResponse)
    assert HTTPResponse.begin is not WatchedConnection.response_class.begin


@pytest.mark.parametrize("through", ["tunnel", "handshake"])
def test_the_socket_is_known_before_a_tunnel_and_a_handshake(through: str) -> None:
    with answering(silent) as port:
        address = f"127.0.0.1:{port}"
        url = "https://far.example/" if through == "tunnel" else f"https://{address}/"
        proxies = {"all": f"http://{address}"} if through == "tunnel" else {}
        exchange = Exchange(0.3, Timing())
        with exchange, exchange.as_current(), pytest.raises(requests.RequestException):
            Session().get(url, proxies=proxies, timeout=30)
    assert exchange.is_over
    assert exchange.is_connected
    assert not exchange.is_sent


def test_a_malformed_redirect_is_not_prepared() -> None:
    answer = http(b"", "Location: http://[malformed", status="302 Found")
    with serving(once(answer)) as url:
        assert Session().get(url, allow_redirects=False).status_code == 302


# --- deadlines -------------------------------------------------------------------------------------


def is_ended(exchange: Exchange) -> bool:
    """Return True after the forced end of an exchange, False if there is none in half a minute."""
    until = time.monotonic() + 30
    while not exchange.is_over and time.monotonic() < until:
        time.sleep(0.01)
    return exchange.is_over


def test_a_read_is_interrupted_at_the_deadline() -> None:
    with answering(silent) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        started = time.monotonic()
        with Exchange(0.2, Timing()) as exchange:
            exchange.attach(connection)
            assert connection.recv(1) == b""
            assert 0.2 <= time.monotonic() - started < 30
        assert exchange.is_over


def test_a_released_exchange_keeps_its_socket_open() -> None:
    with answering(lambda peer: peer.sendall(peer.recv(9))) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            with Exchange(1.0, Timing()) as exchange:
                exchange.attach(connection)
            time.sleep(1.3)
            connection.sendall(b"film")
            assert connection.recv(9) == b"film"
        assert not exchange.is_over


def test_an_earlier_deadline_shortens_the_sleep_of_the_watchdog() -> None:
    with Exchange(60, Timing()), Exchange(0.1, Timing()) as early:
        assert is_ended(early)


def test_each_piece_of_a_file_moves_the_deadline() -> None:
    with Exchange(1.0, Timing(piece_grace_seconds=1.0)) as exchange:
        for _ in range(5):
            exchange.expect_piece()
            time.sleep(0.5)
        assert exchange.seconds == pytest.approx(2.0)
        assert not exchange.is_over


def test_a_forked_child_has_deadlines_of_its_own() -> None:
    with Exchange(60, Timing()):  # so that the parent's watchdog runs
        child = os.fork()
        if child == 0:
            with Exchange(0.1, Timing()) as exchange:
                os._exit(0 if is_ended(exchange) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_many_requests_share_a_single_watchdog_thread() -> None:
    with serving(once(http(running()))) as url:
        here = settings(url, timeout=30)
        with streamed(Session(), here, here.api.get("abc")), streamed(Session(), here, here.api.get("abc")):
            names = [thread.name for thread in threading.enumerate()]
    assert names.count("vace-watchdog") == 1


def test_a_late_request_is_marked_as_sent() -> None:
    with answering(silent) as port:
        here = settings(f"http://127.0.0.1:{port}")
        with pytest.raises(VaceTransportError) as caught:
            send(Session(), here, here.api.get("abc"))
    assert caught.value.sent
