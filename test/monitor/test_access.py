"""The access rules of the page of monitor_node."""

from __future__ import annotations

import pytest

from dynamic_ofa_ros.monitor.access import MonitorError, access_for

TOKEN = 'correct-horse-battery'


@pytest.mark.parametrize('address', ['127.0.0.1', '127.1.2.3', '::1', 'localhost'])
def test_loopback_needs_no_token(address):
    access = access_for(address, '')
    assert access.is_loopback
    assert access.token == ''
    assert access.accepts_token('')


@pytest.mark.parametrize('address', ['0.0.0.0', '::', '192.168.1.7', 'fd00::7'])
def test_every_other_address_gets_a_token_that_differs_each_time(address):
    first, second = access_for(address, ''), access_for(address, '')
    assert len(first.token) >= 16
    assert first.token != second.token
    assert first.accepts_token(first.token)
    for wrong in ('', second.token, first.token[:-1], first.token + 'x', 'ü'):
        assert not first.accepts_token(wrong)


def test_a_given_token_is_required_on_loopback_too():
    access = access_for('127.0.0.1', TOKEN)
    assert access.accepts_token(TOKEN)
    assert not access.accepts_token('')


@pytest.mark.parametrize('address', ['', 'robot', '127.0.0', '127.0.0.1:8090', 'localhost.evil'])
def test_an_invalid_address_is_rejected(address):
    with pytest.raises(MonitorError, match='must be localhost or an IP address'):
        access_for(address, '')


def test_a_short_token_is_rejected():
    with pytest.raises(MonitorError, match='token has 15 characters; it must have 16'):
        access_for('0.0.0.0', 'x' * 15)


@pytest.mark.parametrize('letter', [' ', ';', '&', '#', '+', '%', '\n', 'ä'])
def test_a_token_that_a_url_or_a_cookie_cannot_contain_is_rejected(letter):
    with pytest.raises(MonitorError, match='token may contain only the characters'):
        access_for('127.0.0.1', f'{TOKEN}{letter}x')


@pytest.mark.parametrize(
    ('host', 'is_accepted'),
    [
        ('127.0.0.1:8090', True),
        ('localhost:9000', True),  # through a tunnel
        ('LOCALHOST', True),
        ('[::1]:8090', True),
        ('attacker.example:8090', False),  # a name that points to 127.0.0.1
        ('localhost.attacker.example', False),
        ('127.0.0.1.attacker.example', False),
        ('user@attacker.example', False),
        ('192.168.1.7:8090', False),
        ('', False),
        ('[', False),
    ],
)
def test_without_a_token_only_names_of_this_machine_are_allowed(host, is_accepted):
    assert access_for('127.0.0.1', '').accepts_host(host) is is_accepted


def test_with_a_token_any_name_is_allowed():
    assert access_for('0.0.0.0', '').accepts_host('robot.local:8090')


@pytest.mark.parametrize(
    ('origin', 'is_accepted'),
    [
        ('http://localhost:8090', True),
        ('https://localhost:8090', True),  # behind a proxy that adds TLS
        ('http://LOCALHOST:8090', True),
        ('http://localhost:3000', False),  # another program on this machine
        ('http://attacker.example', False),
        ('http://localhost:8090.attacker.example', False),
        ('file://localhost:8090', False),
        ('null', False),
        ('', False),
    ],
)
def test_only_the_page_itself_may_connect(origin, is_accepted):
    assert access_for('127.0.0.1', '').accepts_origin(origin, 'localhost:8090') is is_accepted


def test_an_empty_host_matches_no_origin():
    assert not access_for('127.0.0.1', '').accepts_origin('http://', '')
