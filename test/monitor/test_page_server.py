"""The web server of monitor_node: what it serves, and what it rejects."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from dynamic_ofa_ros.monitor.access import MonitorError, access_for
from dynamic_ofa_ros.monitor.records import Records
from dynamic_ofa_ros.monitor.server import MAX_MESSAGE_BYTES, MAX_PAGES, PageServer
from dynamic_ofa_ros.msg import Telemetry

TOKEN = 'a-token-of-the-test'
TIMEOUT_S = 10.0


class Served:
    """A server, and its calls of the collector."""

    def __init__(self, token=''):
        self.records = Records()
        self.watching = []
        self.set = []
        access = access_for('127.0.0.1', token)
        self.server = PageServer(access, 0, self.records, self.watching.append, self._set)
        self.server.start()
        self.port = int(self.server.url.split(':')[2].split('/')[0])
        self.host = f'127.0.0.1:{self.port}'

    @property
    def cookie(self):
        return f'{self.server.cookie}={TOKEN}'

    def _set(self, classifier, parameter, value, answer):
        self.set.append((classifier, parameter, value))
        answer(value == 1.0, '' if value == 1.0 else f'{value} is not 1')

    def get(self, path, **headers):
        """Send a request; return status, headers and text of the response."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=TIMEOUT_S)
        connection.request('GET', path, headers={'Host': self.host, **headers})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, response.headers, text

    async def open(self, **headers):
        """Open the connection of a page."""
        given = {'Host': self.host, 'Origin': f'http://{self.host}', **headers}
        given = {name: value for name, value in given.items() if value is not None}
        return await websocket_connect(
            HTTPRequest(f'ws://{self.host}/updates', headers=given, request_timeout=TIMEOUT_S)
        )

    def wait_until(self, condition):
        deadline_s = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


@pytest.fixture
def served():
    found = Served()
    yield found
    found.server.close()


@pytest.fixture
def guarded():
    found = Served(TOKEN)
    yield found
    found.server.close()


async def closed(page):
    """Close the connection of a page and read the remaining messages."""
    page.close()
    while await page.read_message() is not None:
        pass


async def close_code(page):
    """Return the code with which the server closed the connection of a page."""
    while await page.read_message() is not None:
        pass
    code = page.close_code
    page.close()
    return code


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, TIMEOUT_S))


def refused(served, **headers):
    """Return whether a connection with these headers is rejected."""

    async def attempt():
        try:
            page = await served.open(**headers)
        except HTTPClientError as error:
            return error.code == 403
        await closed(page)
        return False

    return run(attempt())


@pytest.mark.parametrize(
    ('path', 'kind'),
    [
        ('/', 'text/html'),
        ('/page/monitor.js', 'text/javascript'),
        ('/page/monitor.css', 'text/css'),
    ],
)
def test_the_page_and_its_files_are_served_and_load_nothing_from_other_servers(served, path, kind):
    status, headers, text = served.get(path)
    assert status == 200
    assert headers['Content-Type'].startswith(kind) or kind == 'text/javascript'
    assert "default-src 'none'" in headers['Content-Security-Policy']
    assert "frame-ancestors 'none'" in headers['Content-Security-Policy']
    assert headers['X-Content-Type-Options'] == 'nosniff'
    assert 'http://' not in text.replace('http://www.w3.org/', '')
    assert 'https://' not in text


@pytest.mark.parametrize('path', ['/page/../server.py', '/page/%2e%2e/server.py', '/page/', '/x'])
def test_other_files_are_not_served(served, path):
    status, _, text = served.get(path)
    assert status in (403, 404)
    assert 'import' not in text


@pytest.mark.parametrize('path', ['/', '/page/monitor.js', '/updates'])
def test_a_foreign_host_name_is_rejected(served, path):
    """DNS rebinding: a name of an attacker points to this machine."""
    status, _, text = served.get(path, Host=f'attacker.example:{served.port}')
    assert status == 403
    assert 'attacker.example' in text


def test_a_page_of_another_origin_cannot_connect(served):
    assert not refused(served)
    assert refused(served, Origin='http://attacker.example')
    assert refused(
        served, Origin=f'http://localhost:{served.port}'
    )  # not the name that was opened
    assert refused(served, Origin='null')
    assert refused(served, Origin=None)
    attacker = f'attacker.example:{served.port}'
    assert refused(served, Host=attacker, Origin=f'http://{attacker}')
    assert served.set == []


def test_without_the_token_nothing_is_served(guarded):
    for path in ('/', '/page/monitor.js', '/?token=', '/?token=wrong-token-of-test'):
        status, headers, text = guarded.get(path)
        assert status == 403, path
        assert 'token is missing or wrong' in text
        assert headers['Set-Cookie'] is None
    assert refused(guarded)
    assert refused(guarded, Cookie=f'{guarded.server.cookie}=wrong-token-of-test')


def test_a_page_that_tries_again_and_again_is_logged_once(guarded, caplog):
    for _ in range(5):
        assert guarded.get('/')[0] == 403
    assert refused(guarded, Origin='http://attacker.example', Cookie=guarded.cookie)
    reasons = [record.getMessage().partition('rejected: ')[2] for record in caplog.records]
    assert reasons == [
        'the token is missing or wrong; open the address that monitor_node logs',
        'a page of http://attacker.example may not connect',
    ]


def test_the_token_is_moved_from_the_url_to_a_cookie(guarded):
    assert guarded.server.url.endswith(f'/?token={TOKEN}')
    status, headers, _ = guarded.get(f'/?token={TOKEN}')
    assert (status, headers['Location']) == (302, '/')
    assert 'HttpOnly' in headers['Set-Cookie']
    assert 'SameSite=Strict' in headers['Set-Cookie']
    cookie = headers['Set-Cookie'].split(';')[0]
    assert guarded.get('/', Cookie=cookie)[0] == 200
    assert not refused(guarded, Cookie=cookie)
    assert refused(guarded, Cookie=cookie, Origin='http://attacker.example')


def test_pages_get_updates_and_pictures_and_watching_ends_with_the_last_page(served):
    record = served.records.create('/classifier')
    record.add_telemetry(Telemetry(level=3), 100.0)
    record.image_topic = '/image'
    served.records.set_picture('/image', b'a picture', (0, 0))
    served.records.left_out = 2

    async def look():
        page = await served.open()
        assert 'fields' in json.loads(await page.read_message())
        update = json.loads(await page.read_message())
        picture = await page.read_message()
        await closed(page)
        return update, picture

    assert served.watching == []
    update, picture = run(look())
    assert update['classifiers'][0]['latest']['level'] == 3
    assert update['left_out'] == 2
    length = int.from_bytes(picture[:2], 'big')
    assert list(json.loads(picture[2 : 2 + length])) == ['/classifier']
    assert picture[2 + length :] == b'a picture'
    served.wait_until(lambda: served.watching == [True, False])


def test_a_page_gets_only_the_classifiers_in_its_window(served):
    for name in ('/left', '/right'):
        served.records.create(name).add_telemetry(Telemetry(level=3), 100.0)

    async def look():
        first, second = await served.open(), await served.open()
        await first.write_message(json.dumps({'shown': ['/left']}))
        while 'latest' in json.loads(await first.read_message()).get('classifiers', [{}])[-1]:
            pass
        served.wait_until(lambda: served.records.shown is None)  # the second shows all
        await second.write_message(json.dumps({'shown': ['/right', '/gone']}))
        served.wait_until(lambda: served.records.shown == {'/left', '/right', '/gone'})
        left, right = json.loads(await first.read_message())['classifiers']
        await closed(second)
        served.wait_until(lambda: served.records.shown == {'/left'})
        await closed(first)
        return left, right

    left, right = run(look())
    assert left['latest']['level'] == 3
    assert right == {'name': '/right'}


def test_a_parameter_is_set_and_the_answer_is_returned(served):
    async def change(value):
        page = await served.open()
        request = {'id': 7, 'classifier': '/c', 'parameter': 'p', 'value': value}
        await page.write_message(json.dumps(request))
        while 'answer' not in (message := json.loads(await page.read_message())):
            pass
        await closed(page)
        return message['answer']

    assert run(change(1.0)) == {'id': 7, 'taken': True, 'reason': ''}
    assert run(change(2.0)) == {'id': 7, 'taken': False, 'reason': '2.0 is not 1'}
    assert served.set == [('/c', 'p', 1.0), ('/c', 'p', 2.0)]


@pytest.mark.parametrize(
    'message',
    [
        '',
        'x',
        '[]',
        '1',
        '{}',
        '{"id": "x"}',
        '{"shown": 1}',
        '[' * 4000,
        '{"id": 1, "value": 1}',
        '{"id": Infinity, "classifier": "/c", "parameter": "p", "value": 1}',
    ],
)
def test_an_invalid_message_closes_the_connection(served, message):
    async def attempt():
        page = await served.open()
        await page.write_message(message)
        return await close_code(page)

    assert run(attempt()) == 1003
    assert served.set == []


def test_a_message_that_is_too_long_closes_the_connection(served):
    async def attempt():
        page = await served.open()
        await page.write_message('x' * (MAX_MESSAGE_BYTES + 1))
        return await close_code(page)

    assert run(attempt()) == 1009
    assert served.set == []


def test_the_number_of_pages_is_limited(served):
    async def attempt():
        pages = [await served.open() for _ in range(MAX_PAGES)]
        assert await close_code(await served.open()) == 1013
        for page in pages:
            await closed(page)

    run(attempt())
    served.wait_until(lambda: served.watching == [True, False])
    assert not refused(served)


def test_closing_the_server_closes_pages_and_ends_the_thread():
    served = Served()

    async def attempt():
        page = await served.open()
        threading.Thread(target=served.server.close).start()
        return await close_code(page)

    assert run(attempt()) == 1001
    served.wait_until(
        lambda: not any(thread.name == 'page server' for thread in threading.enumerate())
    )


def test_a_used_port_is_reported(served):
    other = PageServer(access_for('127.0.0.1', ''), served.port, Records(), print, print)
    with pytest.raises(MonitorError, match=f'port {served.port} of 127.0.0.1 is not available'):
        other.start()


def test_an_ipv6_address_is_written_in_brackets():
    assert PageServer(access_for('::1', ''), 80, Records(), print, print).url == 'http://[::1]:80/'
