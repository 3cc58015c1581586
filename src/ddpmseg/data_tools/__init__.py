"""The commands of `data`: get, check, write, convert, unpack."""
