"""The run-time type checker of the tests, see `conftest.py`."""

from beartype import BeartypeConf, beartype

# PEP 484: where a float is asked for, a whole number will do.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
