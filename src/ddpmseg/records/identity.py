"""What a result depends on, recorded beside every result and compared before one is reused."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ddpmseg.errors import ConfigError

RESOLVED = ("trainer.precision", "backbone.precision")
"""Settings that `arithmetic` holds as what they came to, which is compared instead."""
IDENTITY = "identity"
"""Key of a record that holds an identity."""
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Identity:
    """What the numbers of a result depend on. Results of equal identities are interchangeable.

    Attributes:
        settings: those that change numbers, by dotted key; none of those that only say how or where
            something is computed.
        arithmetic: what the machine and the program make of them: device, dtypes, the numbers of
            the training protocol, the number of classes, `results_version`.
        digests: SHA-256 of what is read: 'weights', 'images' (with their masks), 'classes', ...;
            empty for what is not read, such as random weights.
    """

    settings: Mapping[str, Any]
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Plain JSON values for `Identity.read`."""
        return asdict(self)

    @classmethod
    def read(cls, record: Mapping[str, Any], source: str) -> "Identity":
        """Raises ConfigError, which names the file `source`, if the record holds no identity."""
        try:
            parts = record[IDENTITY]
            found = cls(*(dict(parts[key]) for key in ("settings", "arithmetic", "digests")))
            if not all(isinstance(digest, str) for digest in found.digests.values()):
                raise ValueError("digests are text")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"'{source}' does not say what its results depend on ({error!r}); it is damaged, "
                "or of a version before 0.2. Choose another `paths.output_dir`, or set "
                "`paths.overwrite=true`."
            ) from error
        return found

    def settings_differ(self, earlier: "Identity") -> list[str]:
        """As `differences`, of the settings alone, which are known before any file is read."""
        return [
            f"`{key}` was {before}, is {now}"
            for key, now, before in _pairs(self.settings, earlier.settings)
            if key not in RESOLVED
        ]

    def differences(self, earlier: "Identity") -> list[str]:
        """What is different now, such as '`seed` was 0, is 1'; empty for the same results."""
        return [
            *self.settings_differ(earlier),
            *(
                f"{key.replace('_', ' ')} was {before}, is {now}"
                for key, now, before in _pairs(self.arithmetic, earlier.arithmetic)
            ),
            *(
                f"the SHA-256 of the {key.replace('_', ' ')} was {_short(before)}, is {_short(now)}"
                for key, now, before in _pairs(self.digests, earlier.digests)
            ),
        ]


def listed_differences(differences: list[str]) -> str:
    """The first difference, and how many more there are."""
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    return f"{differences[0]}{more}"


def _pairs(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value now, value before) of all that differ."""
    return [
        (key, now.get(key, NOT_RECORDED), before.get(key, NOT_RECORDED))
        for key in dict.fromkeys((*now, *before))
        if now.get(key, NOT_RECORDED) != before.get(key, NOT_RECORDED)
    ]


def _short(digest: str) -> str:
    return digest if digest == NOT_RECORDED else digest[:12] or "that of nothing"
