"""The beginning of a file that is still to come, and which file it is the beginning of."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ddpmseg.io.files import written_whole


@dataclass(frozen=True)
class FileState:
    """Which file a .part is the beginning of. `size` in bytes, None where it was not told."""

    url: str
    size: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """For If-Range, which takes no weak ETag (RFC 9110, section 13.1.5)."""
        strong = self.etag and not self.etag.startswith("W/")
        return self.etag if strong else self.modified

    def agrees(self, other: "FileState") -> bool:
        """Whether both describe one file, as far as both tell."""
        mine, others = asdict(self), asdict(other)
        return all(None in (mine[key], others[key]) or mine[key] == others[key] for key in mine)


class PartialFile:
    """The beginning of a file, `NAME.part`, with `NAME.part.json` that tells of which file."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = place.with_name(f"{place.name}.part")
        self._state_path = place.with_name(f"{place.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def state(self, url: str) -> FileState | None:
        """None where nothing has arrived from `url`, or nothing that could be continued."""
        try:
            state = FileState(**json.loads(self._state_path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        resumable = state.validator or state.size is not None
        return state if state.url == url and self.size and resumable else None

    def begin(self, state: FileState) -> None:
        self.path.open("wb").close()
        with written_whole(self._state_path) as unfinished:
            unfinished.write_text(json.dumps(asdict(state)))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def move_into_place(self) -> None:
        self.path.replace(self.place)
        self._state_path.unlink(missing_ok=True)
