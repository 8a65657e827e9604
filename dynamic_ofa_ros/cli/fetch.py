"""`dynamic-ofa fetch`: get a published backbone."""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamic_ofa_ros.progress import ProgressReport, progress

if TYPE_CHECKING:
    from dynamic_ofa_ros.offline.fetch import FetchReport


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        'fetch',
        help='download a published, pre-trained backbone',
        description='Download a backbone that the authors of Once-for-all publish, verify it, and '
        'write a folder for dynamic-ofa build. Run the same command again to resume an '
        'interrupted download. Without a name, list the available backbones.',
    )
    parser.add_argument('name', nargs='?', help='for example ofa_mbv3_d234_e346_k357_w1.2')
    parser.add_argument(
        '--output',
        metavar='FOLDER',
        help='folder to write; default: a folder with this name in the cache',
    )
    parser.add_argument(
        '--from-file', metavar='FILE', help='convert this checkpoint instead of downloading one'
    )
    parser.add_argument('--url', default='', help='address of a mirror of the file')
    parser.add_argument(
        '--sha256',
        default='',
        metavar='HEX',
        help='reject files with another checksum; default: the checksum of the first download',
    )
    parser.add_argument(
        '--labels',
        metavar='FILE|FOLDER',
        help='text file with one label per line, or the folder of ImageNet, whose class folders '
        'are the labels; default: "class 0", "class 1", ..., which a build replaces by the names '
        'in its data',
    )
    parser.add_argument(
        '--predictor-file',
        metavar='FILE',
        help='convert this accuracy predictor instead of downloading one',
    )
    parser.add_argument(
        '--no-predictor', action='store_true', help='do not fetch the accuracy predictor'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch a backbone and print its folder and checksum; without a name, list the names."""
    from dynamic_ofa_ros.offline.fetch import FetchSettings, fetch_backbone, read_labels
    from dynamic_ofa_ros.supernet.published.checkpoints import fetched_folder, published_checkpoint

    if args.name is None:
        _list(args.json)
        return 0
    checkpoint = published_checkpoint(args.name)
    output = Path(args.output).expanduser() if args.output else fetched_folder(args.name)
    settings = FetchSettings(
        url=args.url,
        file=_path(args.from_file),
        sha256=args.sha256,
        predictor=not args.no_predictor,
        predictor_file=_path(args.predictor_file),
        labels=read_labels(args.labels) if args.labels else (),
    )
    with _DownloadBar(args.name) as bar:
        report = fetch_backbone(checkpoint, output, settings, on_progress=bar.update)
    _print(report, args.json)
    return 0


def _print(report: FetchReport, as_json: bool) -> None:
    trained = report.trained
    if as_json:
        document = {
            'name': trained.backbone.name,
            'folder': str(trained.directory),
            'source': report.source,
            'sha256': report.sha256,
            'is_first_use': report.is_first_use,
            'predictor': str(report.predictor_path) if report.predictor_path else None,
        }
        print(json.dumps(document, indent=1))
        return
    seen = 'recorded; later downloads must match' if report.is_first_use else 'as expected'
    print(f'SHA-256:   {report.sha256} ({seen})')
    print(f'backbone:  {trained.directory}')
    if report.predictor_path:
        print(f'predictor: {report.predictor_path}')
    print(
        f'next:      dynamic-ofa build --backbone {trained.directory} --data ~/imagenet '
        '--output FAMILY'
    )


def _list(as_json: bool) -> None:
    from dynamic_ofa_ros.supernet.published.checkpoints import (
        fetched_folder,
        published_checkpoint,
        published_names,
    )

    rows = [
        {
            'name': name,
            'url': published_checkpoint(name).url,
            'fetched': str(fetched_folder(name)) if fetched_folder(name).is_dir() else None,
        }
        for name in published_names()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f'{row["name"]:<36} {row["fetched"] or "not fetched"}')


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


class _DownloadBar:
    """A progress bar in megabytes with the download rate; each file gets a new one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stack = ExitStack()
        self._bar: ProgressReport | None = None
        self._last_bytes = self._first_bytes = self._shown_mb = 0
        self._started_s = 0.0

    def __enter__(self) -> _DownloadBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are downloaded; a `total` of 0 means unknown."""
        if self._bar is None or done < self._last_bytes:  # the first or the next file
            self._stack.close()
            self._bar = self._stack.enter_context(
                progress(f'fetching {self._name}, MB', math.ceil((total or done) / 1e6))
            )
            self._first_bytes, self._shown_mb, self._started_s = done, -1, time.monotonic()
        self._last_bytes = done
        megabytes = math.ceil(done / 1e6) if done == total else int(done / 1e6)
        if megabytes == self._shown_mb:
            return
        self._shown_mb = megabytes
        elapsed_s = max(time.monotonic() - self._started_s, 1e-3)
        rate = (done - self._first_bytes) / 1e6 / elapsed_s
        self._bar.update(megabytes, f'{done / 1e6:.1f} MB, {rate:.1f} MB/s')
