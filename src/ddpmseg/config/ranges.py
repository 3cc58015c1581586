"""A setting held against what it may be."""

from ddpmseg.errors import ConfigError


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"`{key}={value}`: must be one of {', '.join(allowed)}.")


def at_least(key: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ConfigError(f"`{key}={value}`: must be at least {least}.")
