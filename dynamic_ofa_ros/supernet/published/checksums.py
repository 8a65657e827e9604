"""Checksums of what was fetched: recorded the first time, insisted on ever after."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

from dynamic_ofa_ros.errors import DownloadError
from dynamic_ofa_ros.family import sha256_of
from dynamic_ofa_ros.files import write_text_atomically

CHECKSUMS_FILE = 'checksums.json'


@dataclass(frozen=True)
class Checksums:
    """The SHA-256 of every file fetched so far, in a small JSON file: name to checksum.

    Whoever publishes a file without a checksum is trusted on first use: what comes later under
    the same name, from whatever address, must be the same.
    """

    path: Path

    def expected(self, name: str) -> str:
        """Return the recorded checksum of a file, empty where there is none."""
        return self._read().get(name, '')

    def check(self, name: str, file: Path, published: str = '') -> str:
        """Return the SHA-256 of `file`; raise DownloadError unless it is the one expected.

        published: the checksum that the publisher or the user states; it goes before ours.
        """
        found = sha256_of(file)
        expected = published.lower() or self.expected(name)
        if expected and found != expected:
            whence = 'that was given' if published else f'that {self.path} recorded'
            remedy = (
                'fetch it from another place'
                if published
                else 'if its publisher did replace it, delete its line there'
            )
            raise DownloadError(
                f'{name} is not the file {whence}: its SHA-256 is {found}, expected was '
                f'{expected}; {remedy}'
            )
        return found

    def record(self, name: str, checksum: str) -> bool:
        """Write a checksum down; tell whether it is new."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f'{self.path.name}.lock').open('a') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._read()
            if known.get(name) == checksum:
                return False
            known[name] = checksum
            text = json.dumps(dict(sorted(known.items())), indent=1)
            write_text_atomically(self.path, text + '\n')
        return True

    def _read(self) -> dict[str, str]:
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DownloadError(
                f'{self.path} is damaged ({error}); repair it, or delete it to trust what is '
                'fetched next'
            ) from None
        if not isinstance(document, dict) or not all(
            isinstance(value, str) for value in document.values()
        ):
            raise DownloadError(
                f'{self.path} is damaged: it should hold names with their SHA-256; repair it, or '
                'delete it to trust what is fetched next'
            )
        return document
