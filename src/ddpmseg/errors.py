"""Errors that a user can cause. Entry points print the message and exit with status 2."""


class UserError(Exception):
    """Wrong input; the message says what was given, what is allowed and what to change."""


class ConfigError(UserError):
    """A setting, or a combination of settings, that cannot work."""


class MissingLibraryError(ConfigError):
    """A library that `what` needs and that comes with an extra of this package."""

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(
            f"{what} needs {library}, which is not installed. In the clone of ddpmseg, "
            f"`pip install -e '.[{extra}]'` brings it; the environment of `make setup` has it."
        )


class DataError(UserError):
    """An image, a mask or a folder that cannot be used."""


class DiskError(DataError):
    """A disk that is full, or a file or folder that cannot be written to."""


class CheckpointError(UserError):
    """A weight file that is missing, damaged, unsafe or made for another network."""


class FeatureError(UserError):
    """Maps of a network that cannot be used, because they hold values that are not finite."""


class DownloadError(UserError):
    """A file that cannot be fetched: no connection, no such address, no space on the disk."""


class TrackingError(UserError):
    """An experiment server that cannot be reached, or rejects what it is sent."""


class TrainingError(UserError):
    """A training that cannot continue, for example because the loss is not finite."""
