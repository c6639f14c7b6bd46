"""Files of lines: plain or gzip, standard input and output."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from ..errors import Corrupt
from .lines import Line

MAX_LINE = 256 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"


class Input:
    """A file of lines to read: gzip where it is, "-" is standard input. Raises OSError where it cannot be read."""

    def __init__(self, path: str) -> None:
        self._raw = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        self.name = "standard input" if path == "-" else path
        self.size = None if path == "-" or not Path(path).is_file() else os.fstat(self._raw.fileno()).st_size
        packed = path.endswith(".gz") or cast(BufferedReader, self._raw).peek(2)[:2] == GZIP
        self._stream = cast(BinaryIO, gzip.GzipFile("", "rb", fileobj=self._raw)) if packed else self._raw

    def __enter__(self) -> Input:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    @property
    def position(self) -> int:
        """Bytes of the file that were read so far, packed where it is."""
        return self._raw.tell() if self.size is not None else 0

    def __iter__(self) -> Iterator[Line]:
        """The lines that are not empty. Raises Corrupt where the file is damaged."""
        number = 0
        while True:
            try:
                text = self._stream.readline(MAX_LINE)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise Corrupt(f"{self.name} is damaged after line {number}: {error}", operation="import") from None
            if not text:
                return
            if len(text) == MAX_LINE and not text.endswith(b"\n"):
                raise Corrupt(f"{self.name}: line {number + 1} is longer than {MAX_LINE:,} bytes", operation="import")
            number += 1
            text = text.removeprefix(BOM) if number == 1 else text
            if text := text.strip():
                yield Line(number, text)


class Output:
    """A file to write: gzip by its suffix, "-" is standard output.

    A regular file appears under its name only when all is written: what was there before stays until then.
    """

    def __init__(self, path: str) -> None:
        self._path = None if path == "-" or (os.path.exists(path) and not os.path.isfile(path)) else path
        self._part = f"{path}.{os.getpid()}.part"
        target = path if self._path is None else self._part
        try:
            self._raw = sys.stdout.buffer if path == "-" else open(target, "wb")  # noqa: SIM115
        except OSError as error:
            error.filename = path
            raise
        packed = path.endswith(".gz")
        self._stream = gzip.GzipFile("", "wb", 6, self._raw, mtime=0) if packed else self._raw

    def __enter__(self) -> Output:
        return self

    def write(self, data: bytes) -> None:
        """Write. Raises OSError."""
        self._stream.write(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not self._raw:
                self._stream.close()
            if kind is None:
                self._raw.flush()
        finally:
            if self._raw is not sys.stdout.buffer:
                self._raw.close()
            if self._path is not None and kind is not None:
                os.unlink(self._part)
        if self._path is not None and kind is None:
            os.replace(self._part, self._path)
