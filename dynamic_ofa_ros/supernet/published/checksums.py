"""Checksums of fetched files: recorded at the first download; later downloads must match."""

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
    """The SHA-256 of every fetched file, stored as JSON: names to checksums.

    A file that is published without a checksum is trusted at its first download. Later downloads
    under the same name must have the same checksum, whatever their address.
    """

    path: Path

    def expected(self, name: str) -> str:
        """Return the recorded checksum of a file; empty if none is recorded."""
        return self._read().get(name, '')

    def check(self, name: str, file: Path, published: str = '') -> str:
        """Return the SHA-256 of `file`; raise DownloadError if it is not the expected one.

        published: the checksum stated by the publisher or the user; it takes precedence over a
        recorded one.
        """
        found = sha256_of(file)
        expected = published.lower() or self.expected(name)
        if expected and found != expected:
            origin = 'given' if published else f'recorded in {self.path}'
            remedy = (
                'fetch the file from another address'
                if published
                else 'if the publisher has replaced the file, delete its line there'
            )
            raise DownloadError(
                f'{name} has the SHA-256 {found}, but {expected} is {origin}; {remedy}'
            )
        return found

    def record(self, name: str, checksum: str) -> bool:
        """Record a checksum; return whether it is new."""
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
                f'{self.path} is damaged ({error}); repair it, or delete it to trust the next '
                'download'
            ) from None
        if not isinstance(document, dict) or not all(
            isinstance(value, str) for value in document.values()
        ):
            raise DownloadError(
                f'{self.path} is damaged: it must map names to SHA-256; repair it, or delete it '
                'to trust the next download'
            )
        return document
