"""The page of monitor_node in Chromium, with a real camera and real classifiers.

The tests are skipped without Chromium. They write the pictures of docs/monitor.md into the folder
in the environment variable MONITOR_PICTURES (`make monitor-pictures`).
"""

from __future__ import annotations

import http.server
import os
import re
import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest
from ros_harness import ros

from dynamic_ofa_ros.msg import Level, LevelArray, Telemetry
from dynamic_ofa_ros.nodes import qos

try:
    from playwright import sync_api as playwright
except ImportError:
    playwright = None
expect = playwright and playwright.expect

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = [
    pytest.mark.skipif(playwright is None, reason='requires pip install playwright'),
    pytest.mark.skipif(CHROMIUM is None, reason='requires Chromium: apt install chromium'),
]

ARGUMENTS = [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
]  # fmt: skip
START_TIMEOUT_S = 120.0
"""Timeout for the first answer; the first start on a machine builds the engines."""

TIMEOUT_MS = 30_000.0
WIDE = {'width': 1440, 'height': 1080}
TABLET = {'width': 820, 'height': 1180}
PHONE = {'width': 412, 'height': 915}
BROWSER_NICE = 10
RATE_HZ = 15
PICTURE_WAIT_MS = 45_000 if os.environ.get('MONITOR_PICTURES') else 1000
"""Time before a screenshot, so that the charts have a history."""

LIMIT = 'constraints.max_latency_ms'
SCOPE = 'constraints.latency_scope'


@pytest.fixture(scope='module')
def session(tmp_path_factory):
    """A camera, two classifiers and the monitor."""
    with ros(tmp_path_factory.mktemp('ros')) as found:
        found.start('camera_node', {'rate_hz': RATE_HZ, 'scene_period_s': 2.0})
        remapped = ['-r', '__ns:=/second', '-r', 'image_raw:=/image_raw']
        for name, arguments in (('/classifier', ()), ('/second/classifier', remapped)):
            telemetry = found.listen(Telemetry, f'{name}/telemetry', qos.TELEMETRY)
            found.start('classifier_node', arguments=arguments)
            found.wait_until(lambda t=telemetry: t.messages, name, START_TIMEOUT_S)
        yield found


@pytest.fixture(scope='module')
def monitor(session):
    process = session.start('monitor_node', {'port': 0})
    session.wait_until(lambda: 'open http' in process.output(), 'the monitor')
    return process


@pytest.fixture(scope='module')
def url(monitor):
    return re.search(r'http://\S+', monitor.output())[0]


@pytest.fixture(scope='module')
def browser():
    expect.set_options(timeout=TIMEOUT_MS)
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for process in psutil.Process().children(recursive=True):
            if 'chrom' in process.name():
                process.nice(BROWSER_NICE)
        yield found
        found.close()


@pytest.fixture
def page(browser, url):
    """The page; fails if the browser reports an error."""
    errors = []
    with browser.new_context(viewport=WIDE) as context:
        found = context.new_page()
        found.set_default_timeout(TIMEOUT_MS)
        found.on('pageerror', lambda error: errors.append(str(error)))
        found.on(
            'console',
            lambda message: errors.append(message.text) if message.type == 'error' else None,
        )
        found.goto(url)
        yield found
    assert errors == []


@pytest.fixture
def pictures(tmp_path):
    """Return the folder for pictures."""
    folder = Path(os.environ.get('MONITOR_PICTURES') or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def section(page, name):
    """Scroll to the section of a classifier, and return it once it shows a level."""
    found = page.locator(f'[data-classifier="{name}"]')
    found.scroll_into_view_if_needed()
    expect(found.locator('.ladder tr.active')).to_have_count(1)
    return found


def level(found):
    return int(found.locator('.ladder tr.active').get_attribute('data-level'))


def enter(found, parameter, value):
    """Type a value into the field of a parameter."""
    field = found.get_by_label(parameter, exact=True)
    field.fill(str(value))
    field.press('Enter')
    return field


def subscribers(session):
    """Return the names of the nodes that subscribe to the camera."""
    infos = session.node.get_subscriptions_info_by_topic('/image_raw')
    return sorted(info.node_name for info in infos)


def wait_on_page(page, condition, what):
    """Wait until a condition holds, while the browser handles its events."""
    deadline_s = time.monotonic() + TIMEOUT_MS / 1e3
    while not condition():
        assert time.monotonic() < deadline_s, what
        page.wait_for_timeout(50)


def test_a_limit_set_on_the_page_changes_the_level(page, session, pictures):
    found = section(page, '/classifier')
    # On a busy machine, a delay outside inference is no reason for a lower level.
    assert session.set_parameter('/classifier', SCOPE, 'inference').successful
    enter(found, LIMIT, 0)
    wait_on_page(page, lambda: level(found) == 8, 'the highest level without a limit')
    expect(found.locator('.state')).to_have_text('no latency limit')
    enter(found, LIMIT, 6)
    wait_on_page(page, lambda: level(found) < 8, 'a lower level within a limit')
    expect(found.locator('.switches li').first.locator('.reason')).to_contain_text('6.00 ms')
    expect(found.locator('.switches li').first.locator('.move')).to_contain_text('→')
    expect(found.locator('.legend')).to_contain_text('limit 6.0 ms')
    enter(found, LIMIT, 25)
    assert session.set_parameter('/classifier', SCOPE, 'node').successful
    page.wait_for_timeout(PICTURE_WAIT_MS)
    second = page.locator('[data-classifier="/second/classifier"]')
    second.evaluate('node => node.style.display = "none"')
    page.wait_for_timeout(500)
    page.evaluate('document.activeElement.blur()')
    page.screenshot(path=pictures / 'monitor.png', full_page=True)
    assert (pictures / 'monitor.png').stat().st_size > 50_000


def test_the_reason_for_a_rejected_value_is_shown(page):
    found = section(page, '/classifier')
    row = found.locator('[data-parameter="manager.fixed_level"]')
    field = enter(found, 'manager.fixed_level', 99)
    expect(row.locator('.refused')).to_have_text(
        'manager.fixed_level is 99; it must lie in [0, 8]'
    )
    expect(field).to_have_value('0')
    enter(found, LIMIT, -3)
    refusal = found.locator(f'[data-parameter="{LIMIT}"] .refused')
    expect(refusal).to_contain_text(LIMIT)
    enter(found, LIMIT, 30)
    expect(refusal).to_have_text('')


def test_sliders_lists_and_switches_set_parameters(page, session):
    found = section(page, '/classifier')
    found.get_by_label('constraints.quantile slider').focus()
    page.keyboard.press('Home')
    wait_on_page(
        page,
        lambda: session.get_parameter('/classifier', 'constraints.quantile') == 0.5,
        'the quantile',
    )
    found.get_by_label('manager.policy', exact=True).select_option('fixed')
    wait_on_page(
        page,
        lambda: session.get_parameter('/classifier', 'manager.policy') == 'fixed',
        'the policy',
    )
    found.get_by_label('enabled', exact=True).uncheck()
    expect(found.locator('.state')).to_have_text('disabled')
    found.get_by_label('enabled', exact=True).check()
    for name, value in (('constraints.quantile', 0.95), ('manager.policy', 'predictive')):
        assert session.set_parameter('/classifier', name, value).successful
        # Values set by other programs are also shown.
        expect(found.get_by_label(name, exact=True)).to_have_value(str(value))


def test_picture_numbers_and_lost_images_are_shown(page):
    found = section(page, '/classifier')
    image = found.locator('.picture canvas')
    expect(image).to_be_visible()
    wait_on_page(page, lambda: image.evaluate('c => c.width') == 640, 'a picture')
    expect(found.locator('.picture .label')).to_have_text(re.compile(r'\w+ +\d+ %'))
    expect(found.locator('.picture .level')).to_have_text(re.compile(r'level \d'))
    enter(found, LIMIT, 30)  # without a limit, no image is late
    for tile, unit in (('accuracy', '%'), ('p95', 'ms'), ('rate', 'Hz'), ('late', '%')):
        expect(found.locator(f'[data-tile={tile}] b')).to_have_text(re.compile(rf'^\d.* {unit}$'))
    expect(found.locator('[data-count=sequence] td').last).to_have_text(re.compile(r'^[\d,]+$'))
    expect(found.locator('.ladder tbody tr')).to_have_count(8)
    expect(found.locator('.ladder tr.active td').last).to_have_text(re.compile(r'^[\d.]+ ms$'))
    assert is_drawn(found.locator('canvas.latency'))


def test_two_classifiers_are_side_by_side_and_set_independently(page, session, pictures):
    first, second = section(page, '/classifier'), section(page, '/second/classifier')
    headings = page.locator('.classifier h2').all_text_contents()
    assert headings[:2] == ['/classifier', '/second/classifier']
    assert not [heading for heading in headings if 'UNKNOWN' in heading]
    boxes = first.bounding_box(), second.bounding_box()
    assert boxes[0]['y'] == boxes[1]['y']
    assert boxes[0]['x'] + boxes[0]['width'] <= boxes[1]['x']
    enter(second, 'constraints.min_accuracy', 0.5)
    wait_on_page(
        page,
        lambda: session.get_parameter('/second/classifier', 'constraints.min_accuracy') == 0.5,
        'the accuracy of the second',
    )
    assert session.get_parameter('/classifier', 'constraints.min_accuracy') == 0.0
    page.emulate_media(color_scheme='dark')
    page.wait_for_timeout(PICTURE_WAIT_MS)
    page.evaluate('document.activeElement.blur()')
    page.screenshot(path=pictures / 'monitor_two.png', full_page=True)


@pytest.mark.parametrize('size', [PHONE, TABLET, WIDE], ids=['phone', 'tablet', 'wide'])
def test_the_page_fits_every_screen_width(page, size):
    page.set_viewport_size(size)
    section(page, '/classifier')
    page.get_by_text('More parameters').first.click()
    assert page.evaluate('document.documentElement.scrollWidth') <= size['width']


def is_drawn(canvas):
    return canvas.evaluate(
        'c => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some(v => v > 0)'
    )


def test_charts_are_drawn_only_while_they_are_in_the_window(page):
    page.set_viewport_size(PHONE)
    page.reload()
    second = page.locator('[data-classifier="/second/classifier"]')
    charts = [found.locator('canvas.latency') for found in (section(page, '/classifier'), second)]
    wait_on_page(page, lambda: is_drawn(charts[0]), 'the first chart')
    assert not is_drawn(charts[1])
    # The data of the second are only sent once it is in the window, from the time before.
    times = 'views.get("/second/classifier").frames.map((frame) => frame[columns.time_s])'
    wait_on_page(page, lambda: page.evaluate('views.get("/classifier").isCurrent'), 'an update')
    page.wait_for_timeout(500)
    before = page.evaluate(times)
    page.wait_for_timeout(3000)
    assert page.evaluate(times) == before
    shown_s = time.time()
    charts[1].scroll_into_view_if_needed()
    wait_on_page(page, lambda: is_drawn(charts[1]), 'the second chart')
    first, *_ = page.evaluate(times)[len(before) :]
    assert max(before, default=0.0) < first < shown_s


def test_the_page_is_readable_on_a_phone(page, pictures):
    page.set_viewport_size(PHONE)
    found = section(page, '/classifier')
    expect(found.locator('.picture canvas')).to_be_visible()
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / 'monitor_phone.png')
    sizes = found.locator('.tile b').evaluate_all(
        'all => all.filter(n => !n.parentNode.hidden).map(n => n.scrollWidth <= n.clientWidth)'
    )
    assert all(sizes)


def test_images_are_received_only_while_a_page_is_open(browser, url, session):
    session.wait_until(lambda: 'monitor' not in subscribers(session), 'no subscription')
    page = browser.new_page()
    page.goto(url)
    session.wait_until(lambda: subscribers(session).count('monitor') == 1, 'one per camera')
    page.close()
    session.wait_until(lambda: 'monitor' not in subscribers(session), 'no subscription again')


def test_missing_classifiers_are_mentioned_only_by_a_connected_page(browser, url):
    page = browser.new_page()
    page.add_init_script('window.WebSocket = class {};')
    page.goto(url)
    empty, surplus = page.get_by_text('No classifier found yet'), page.locator('#surplus')
    expect(page.locator('#connection')).to_have_text('connecting')
    expect(empty).to_be_hidden()
    page.evaluate('take({ classifiers: [], left_out: 0 })')
    expect(empty).to_be_visible()
    expect(surplus).to_be_hidden()
    page.evaluate('take({ classifiers: [], left_out: 3 })')
    expect(surplus).to_have_text('3 more classifiers are not shown.')
    page.close()


class Hello(http.server.BaseHTTPRequestHandler):
    """The page of another program."""

    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.end_headers()
        self.wfile.write(b'<h1>hello</h1>')

    def log_message(self, *_):
        pass


@pytest.fixture
def attacker():
    """A site of an attacker, on this machine, because Chromium itself blocks other hosts."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
        thread.join()


def test_a_page_of_another_site_can_neither_read_nor_set(browser, monitor, url, session, attacker):
    """The operator of the robot opens a page of an attacker in the same browser."""
    before = session.get_parameter('/classifier', LIMIT)
    attack = f"""() => new Promise((resolve) => {{
        const socket = new WebSocket('{url.replace('http', 'ws')}updates');
        const request = {{ id: 1, classifier: '/classifier', parameter: '{LIMIT}', value: 1 }};
        socket.onopen = () => {{ socket.send(JSON.stringify(request)); resolve('open'); }};
        socket.onerror = () => resolve('refused');
    }})"""
    page = browser.new_page()
    page.goto(attacker)
    assert page.evaluate(attack) == 'refused'
    page.close()
    assert session.get_parameter('/classifier', LIMIT) == before
    # The monitor rejected the connection, not Chromium.
    assert f'a page of {attacker} may not connect' in monitor.output()


def test_a_new_classifier_is_found_and_shown_as_gone_after_its_end(page, session):
    arguments = ['-r', '__ns:=/third', '-r', 'image_raw:=/image_raw']
    third = session.start('classifier_node', arguments=arguments)
    found = section(page, '/third/classifier')
    expect(found.locator('.state')).not_to_have_text('gone')
    third.stop()
    expect(found.locator('.state')).to_have_text('gone')
    expect(found.locator('.grid')).to_have_css('opacity', '0.5')
    section(page, '/classifier')


def test_another_family_of_the_same_classifier_is_shown(page, session):
    telemetry = session.node.create_publisher(Telemetry, '/replaced/telemetry', qos.TELEMETRY)
    table = session.node.create_publisher(LevelArray, '/replaced/levels', qos.LATCHED)
    found = page.locator(f'[data-classifier="{session.node.get_fully_qualified_name()}"]')
    wait_on_page(
        page,
        lambda: telemetry.publish(Telemetry(level=1, level_count=2)) or found.count(),
        'the classifier',
    )
    found.scroll_into_view_if_needed()
    for names in (['small', 'large'], ['quick', 'good']):
        levels = [Level(index=number, name=name) for number, name in enumerate(names, start=1)]
        table.publish(LevelArray(family=names[0], levels=levels))

        def is_shown(names=names):
            telemetry.publish(Telemetry(level=1, level_count=2))
            cells = found.locator('.ladder tbody td:first-child').all()
            return [cell.get_attribute('title') for cell in cells] == names[::-1]

        wait_on_page(page, is_shown, f'the levels {names}')
