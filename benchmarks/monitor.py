"""What monitor_node costs: processor time by classifiers and open pages, or memory over minutes.

    python -m benchmarks.monitor [--seconds 30]     to monitor.json
    python -m benchmarks.monitor --memory 15        to monitor_memory.json; requires Chromium

Camera, classifiers and monitor are processes of their own on ROS 2, 640x480 at 30 Hz. For
processor time, a page is a connection that receives what a browser receives in a window with
SHOWN classifiers, without a browser's own work. For memory, Chromium shows the page, and another
page is opened again and again; before and after, no page is open.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The processes are started as the tests start them.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'test'))

import psutil
from programs import Program
from ros_harness import Ros, ros
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from benchmarks.common import RESULTS, print_table, write_results
from dynamic_ofa_ros.family import Family, default_family
from dynamic_ofa_ros.msg import Telemetry
from dynamic_ofa_ros.nodes import qos
from dynamic_ofa_ros.runtime.host import OthersLoad

START_TIMEOUT_S = 120.0
SETTLE_S = 5.0
REOPEN_S = 10.0
SAMPLE_S = 30.0
CLOSED_S = 60.0
"""Time without a page, before and after."""

MEMORY_CLASSIFIERS = 2
SHOWN = 4
"""Maximum number of classifiers that are visible at once in a window of 1440x1080 px."""

RATE_HZ = 30
VIEWPORT = {'width': 1440, 'height': 1080}


@dataclass(frozen=True)
class Case:
    """One row: how many classifiers there are, and how many pages look at them."""

    classifiers: int
    pages: int


CASES = (
    Case(1, 0), Case(1, 1), Case(1, 2), Case(4, 0), Case(4, 1), Case(20, 0), Case(20, 1),
)  # fmt: skip
MAX_REAL = 4
"""With more classifiers, all are those of `benchmarks.telemetry_publisher`."""


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=30.0, help='length of each case')
    parser.add_argument(
        '--memory', metavar='MINUTES', type=float, help='measure memory with a page open so long'
    )
    parser.add_argument('--classifiers', type=int, nargs='+', help='only these cases')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    configuration: dict[str, Any] = {'rate_hz': RATE_HZ, 'image': '640x480'}
    with tempfile.TemporaryDirectory() as folder:
        if options.memory is None:
            chosen = [
                c for c in CASES if c.classifiers in (options.classifiers or [c.classifiers])
            ]
            name, rows = 'monitor', measure(Path(folder), chosen, options.seconds)
            configuration |= {'seconds': options.seconds, 'shown': SHOWN}
        else:
            with ros(Path(folder)) as session:
                monitor, url = start(session, MEMORY_CLASSIFIERS)
                rows = asyncio.run(memory(monitor, url, 60.0 * options.memory))
            name = 'monitor_memory'
            configuration |= {
                'classifiers': MEMORY_CLASSIFIERS, 'minutes': options.memory,
                'reopen_s': REOPEN_S,
            }  # fmt: skip
    print_table(name, tuple(rows[0]), [tuple(row.values()) for row in rows])
    family = default_family()
    write_results(
        name,
        {'cases' if options.memory is None else 'memory': rows},
        configuration=configuration,
        input_checksum=hashlib.sha256(Family.load(family).checksum.encode()).hexdigest(),
        load=load,
        folder=options.output,
    )


def measure(folder: Path, cases: Sequence[Case], seconds: float) -> list[dict[str, Any]]:
    """Return what each case costs."""
    rows = []
    for count in sorted({case.classifiers for case in cases}):
        with ros(folder) as session:
            monitor, url = start(session, count)
            for case in (case for case in cases if case.classifiers == count):
                rows.append(asyncio.run(measured(case, monitor, url, seconds)))
                print(rows[-1], flush=True)
    return rows


def start(session: Ros, classifiers: int) -> tuple[Program, str]:
    """Start all nodes; return the monitor and the address of its page."""
    parameters: Mapping[str, Any] = {'manager.policy': 'fixed', 'manager.fixed_level': 1}
    if classifiers > MAX_REAL:
        session.start_module('benchmarks.telemetry_publisher', classifiers, RATE_HZ)
        session.start('camera_node', {'rate_hz': RATE_HZ})
    for number in range(classifiers if classifiers <= MAX_REAL else 0):
        name = f'classifier_{number}'
        telemetry = session.listen(Telemetry, f'/{name}/telemetry', qos.TELEMETRY)
        session.start('classifier_node', parameters, arguments=['-r', f'__node:={name}'])
        if number == 0:
            session.start('camera_node', {'rate_hz': RATE_HZ})
        session.wait_until(lambda t=telemetry: t.messages, name, START_TIMEOUT_S)
    monitor = session.start('monitor_node', {'port': 0})
    session.wait_until(lambda: 'open http' in monitor.output(), 'the monitor')
    url = next(word for word in monitor.output().split() if word.startswith('http'))
    return monitor, url


async def opened(stack: AsyncExitStack, url: str, totals: list[int]) -> None:
    """Open a page, and count its messages and bytes, until the stack closes."""
    request = HTTPRequest(
        url.replace('http', 'ws', 1) + 'updates', headers={'Origin': url.rstrip('/')}
    )
    page = await websocket_connect(request)
    shown = [f'/classifier_{number}' for number in range(SHOWN)]
    await page.write_message(json.dumps({'shown': shown}))

    async def take() -> None:
        while (message := await page.read_message()) is not None:
            totals[0] += 1
            totals[1] += len(message)

    task = asyncio.create_task(take())

    async def end() -> None:
        page.close()
        await task

    stack.push_async_callback(end)


async def measured(case: Case, monitor: Program, url: str, seconds: float) -> dict[str, Any]:
    """Return what a case costs."""
    process = psutil.Process(monitor.process.pid)
    totals = [0, 0]
    async with AsyncExitStack() as stack:
        for _ in range(case.pages):
            await opened(stack, url, totals)
        await asyncio.sleep(SETTLE_S)
        begin_s, before, seen = time.monotonic(), process.cpu_times(), list(totals)
        await asyncio.sleep(seconds)
        after, took_s = process.cpu_times(), time.monotonic() - begin_s
        pages = max(1, case.pages)
        return {
            'classifiers': case.classifiers,
            'pages': case.pages,
            'cpu_percent': round(
                100.0 * (after.user + after.system - before.user - before.system) / took_s, 1
            )
            + 0.0,  # not -0.0
            'messages_hz': round((totals[0] - seen[0]) / took_s / pages, 1),
            'kb_per_s': round((totals[1] - seen[1]) / took_s / pages / 1e3, 1),
        }


async def memory(monitor: Program, url: str, seconds: float) -> list[dict[str, Any]]:
    """Return samples of the memory of the node and, while Chromium shows the page, of both.

    node_mb: resident memory. heap_mb, dom_nodes, listeners: of the page, after a garbage
    collection. browser_mb: proportional memory of all processes of Chromium.
    """
    from playwright.async_api import async_playwright

    node = psutil.Process(monitor.process.pid)
    begin_s = time.monotonic()
    samples: list[dict[str, Any]] = []

    async def sample(devtools: Any = None) -> None:
        row: dict[str, Any] = {
            's': round(time.monotonic() - begin_s),
            'is_open': devtools is not None,
            'node_mb': round(node.memory_info().rss / 2**20, 1),
            'heap_mb': None, 'dom_nodes': None, 'listeners': None, 'browser_mb': None,
        }  # fmt: skip
        if devtools is not None:
            await devtools.send('HeapProfiler.collectGarbage')
            heap = await devtools.send('Runtime.getHeapUsage')
            counters = await devtools.send('Memory.getDOMCounters')
            row['heap_mb'] = round(heap['usedSize'] / 2**20, 2)
            row['dom_nodes'], row['listeners'] = counters['nodes'], counters['jsEventListeners']
            row['browser_mb'] = round(sum(p.memory_full_info().pss for p in browsers()) / 2**20, 1)
        samples.append(row)
        print(row, flush=True)

    async def closed() -> None:
        until_s = time.monotonic() + CLOSED_S
        while time.monotonic() < until_s:
            await asyncio.sleep(SAMPLE_S)
            await sample()

    await closed()
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=shutil.which('chromium') or shutil.which('chromium-browser'),
            args=['--no-sandbox', '--disable-gpu'],
        )
        page = await browser.new_page(viewport=VIEWPORT)
        await page.goto(url)
        devtools = await page.context.new_cdp_session(page)
        until_s, next_s = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < until_s:
            async with AsyncExitStack() as stack:
                await opened(stack, url, [0, 0])
                await asyncio.sleep(REOPEN_S)
            if time.monotonic() >= next_s:
                next_s += SAMPLE_S
                await sample(devtools)
        await browser.close()
    await closed()
    return samples


def browsers() -> list[psutil.Process]:
    """Return the processes of Chromium that this program has started."""
    return [p for p in psutil.Process().children(recursive=True) if 'chrom' in p.name()]


if __name__ == '__main__':
    main()
