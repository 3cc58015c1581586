"""Text files that users write: lists, tables and annotations, from any editor or system."""

import codecs
import shlex
from pathlib import Path

from ddpmseg.errors import UserError

MARKED = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
"""Byte order mark, as some editors write it -> encoding that removes it."""


def read_text(path: Path, noun: str, kind: type[UserError]) -> str:
    """Read UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises `kind` for another encoding and for what cannot be read; messages call the file `noun`.
    Raises FileNotFoundError.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise kind(f"{noun} '{path}' cannot be read ({error.strerror}). Name a file.") from error
    encoding = next((name for mark, name in MARKED if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise kind(
                f"{noun} '{path}' is damaged: it begins as {encoding.upper()}, which it is not "
                f"({error.reason} at byte {error.start}). Write it anew."
            ) from error
        shown = shlex.quote(str(path))
        raise kind(
            f"{noun} '{path}' is not in UTF-8 ({error.reason} at byte {error.start}). Convert it: "
            f"`iconv -f gb18030 -t utf-8 {shown} > NEW`, where gb18030 is the encoding of a "
            "Chinese system; a Japanese one writes cp932, a Korean one cp949, a Western one cp1252."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
