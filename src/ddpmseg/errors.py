"""Mistakes a user can make. Entry points print their message and exit with status 2."""


class UserError(Exception):
    """Something the user gave is wrong; the message says what, what is allowed, the way out."""


class ConfigError(UserError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(UserError):
    """An image, a mask or a folder that cannot be used."""


class CheckpointError(UserError):
    """A weight file that is missing, damaged, unsafe or made for another network."""


class DownloadError(UserError):
    """A file that cannot be fetched: no connection, no such address, no space for it."""


class TrackingError(UserError):
    """A server of experiments that cannot be reached, or refuses what it is given."""


class TrainingError(UserError):
    """A training that cannot go on, such as a loss that is not a number."""
