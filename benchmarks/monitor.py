"""What monitor_node costs: processor time with 0, 1 and 2 open pages, and memory over minutes.

    python -m benchmarks.monitor [--seconds 60] [--minutes 10]

Camera, classifier and monitor are processes of their own on ROS 2, 640x480 at 30 Hz. A page is a
connection that takes everything, as a browser does, without a browser's own work.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Mapping
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
SAMPLE_S = 10.0
RATE_HZ = 30


@dataclass(frozen=True)
class Case:
    """One row: how many classifiers there are, and how many pages look at them."""

    classifiers: int
    pages: int


CASES = (Case(1, 0), Case(1, 1), Case(1, 2), Case(2, 1))


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=60.0, help='length of each case')
    parser.add_argument('--minutes', type=float, default=10.0, help='length of the memory test')
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder of the JSON file')
    options = parser.parse_args()
    load = OthersLoad()
    rows, memory = [], []
    with tempfile.TemporaryDirectory() as folder:
        for count in sorted({case.classifiers for case in CASES}):
            with ros(Path(folder)) as session:
                monitor, url = start(session, count)
                for case in (case for case in CASES if case.classifiers == count):
                    rows.append(asyncio.run(measured(case, monitor, url, options.seconds)))
                    print(rows[-1], flush=True)
                if count == 1:
                    memory = asyncio.run(sampled(monitor, url, 60.0 * options.minutes))
    print_table(
        'The process of monitor_node',
        ('classifiers', 'pages', '% of a core', 'messages a page takes per s', 'KB per s'),
        [tuple(row.values()) for row in rows],
    )
    print_table('Memory with 2 pages', ('s', 'MB'), memory)
    family = default_family()
    write_results(
        'monitor',
        {'cases': rows, 'memory': [{'s': s, 'mb': mb} for s, mb in memory]},
        configuration={'rate_hz': RATE_HZ, 'image': '640x480', 'seconds': options.seconds},
        input_checksum=hashlib.sha256(Family.load(family).checksum.encode()).hexdigest(),
        load=load,
        folder=options.output,
    )


def start(session: Ros, classifiers: int) -> tuple[Program, str]:
    """Start all nodes; return the monitor and the address of its page."""
    parameters: Mapping[str, Any] = {'manager.policy': 'fixed', 'manager.fixed_level': 1}
    for number in range(classifiers):
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
    """Open a page that takes everything, and counts messages and bytes, until the stack closes."""
    request = HTTPRequest(
        url.replace('http', 'ws', 1) + 'updates', headers={'Origin': url.rstrip('/')}
    )
    page = await websocket_connect(request)

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
            ),
            'messages_hz': round((totals[0] - seen[0]) / took_s / pages, 1),
            'kb_per_s': round((totals[1] - seen[1]) / took_s / pages / 1e3, 1),
        }


async def sampled(monitor: Program, url: str, seconds: float) -> list[tuple[int, float]]:
    """Return seconds and resident memory, with two pages that are opened again and again."""
    process = psutil.Process(monitor.process.pid)
    found = []
    begin_s = time.monotonic()
    while (at_s := time.monotonic() - begin_s) < seconds:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await opened(stack, url, [0, 0])
            await asyncio.sleep(SAMPLE_S)
            found.append((round(at_s), round(process.memory_info().rss / 2**20, 1)))
    return found


if __name__ == '__main__':
    main()
