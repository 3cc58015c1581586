"""Where the blocks of a very deep VAE stand, in the notation of the original code."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ddpmseg.errors import ConfigError

ENTRY = re.compile(r"([1-9]\d{0,3})(?:([xdm])([1-9]\d{0,3}))?")
EXAMPLES = {
    "enc_blocks": "32x11 (eleven blocks on maps of 32 x 32) and 32d2 (one that then halves them)",
    "dec_blocks": "32x11 (eleven blocks on maps of 32 x 32) and 32m16 (one that adds those of 16 "
    "x 16)",
}


@dataclass(frozen=True)
class EncoderPlace:
    """A block on maps of `side` x `side` pixels, which leave it averaged over `down` x `down`."""

    side: int
    down: int = 1

    @property
    def leaving(self) -> int:
        return self.side // self.down


@dataclass(frozen=True)
class DecoderPlace:
    """A block on maps of `side` x `side`; `mixin` is the side of smaller maps it adds, if any."""

    side: int
    mixin: int | None = None


@dataclass(frozen=True)
class Layout:
    """All blocks, in the order in which they run."""

    encoder: tuple[EncoderPlace, ...]
    decoder: tuple[DecoderPlace, ...]

    @property
    def image_size(self) -> int:
        return self.encoder[0].side

    @property
    def decoder_sides(self) -> list[int]:
        """Sides of the decoder's maps, ascending."""
        return sorted({place.side for place in self.decoder})

    def sides(self) -> list[int]:
        """Side of the map after each block, the encoder's first."""
        return [place.leaving for place in self.encoder] + [place.side for place in self.decoder]

    def last_of_each_side(self) -> dict[tuple[str, int], int]:
        """('encoder' or 'decoder', side) -> the last block with a map of that side.

        Blocks are counted through. The encoder's are those that its decoder is given.
        """
        parts = ["encoder"] * len(self.encoder) + ["decoder"] * len(self.decoder)
        places = zip(parts, self.sides(), strict=True)
        return {place: index for index, place in enumerate(places)}


def read_layout(enc_blocks: Sequence[str], dec_blocks: Sequence[str]) -> Layout:
    """Both parts, as `32x11`, `32d2`, `32m16`; an entry without a letter is a single block.

    Raises ConfigError for an entry that cannot be read, and for blocks that do not follow from each
    other. Source: openai/vdvae, `parse_layer_string` in `vae.py`, `enc_blocks` and `dec_blocks` in
    `hps.py`.
    """
    encoder = tuple(_encoder(enc_blocks))
    sides = {encoder[0].side} | {place.leaving for place in encoder}
    return Layout(encoder, tuple(_decoder(dec_blocks, sides)))


def _encoder(entries: Sequence[str]) -> Iterator[EncoderPlace]:
    side = None
    for entry, place, letter, number in _parsed("enc_blocks", entries):
        if side is not None and place != side:
            raise ConfigError(
                f"`backbone.enc_blocks`: '{entry}' follows blocks that leave maps of {side} x "
                f"{side}. A block whose maps are to become smaller is written as {side}d2."
            )
        side = place
        if letter == "d":
            if side % number:
                raise ConfigError(
                    f"`backbone.enc_blocks`: '{entry}' cannot divide maps of {side} x {side} by "
                    f"{number}."
                )
            yield EncoderPlace(side, number)
            side //= number
        else:
            yield from [EncoderPlace(side)] * number


def _decoder(entries: Sequence[str], encoder_sides: set[int]) -> Iterator[DecoderPlace]:
    done: set[int] = set()
    for entry, side, letter, number in _parsed("dec_blocks", entries):
        if side not in encoder_sides:
            raise ConfigError(
                f"`backbone.dec_blocks`: '{entry}' needs maps of {side} x {side} from the encoder, "
                f"whose sides are {sorted(encoder_sides)}."
            )
        if letter == "m":
            if number not in done or number >= side or side % number:
                raise ConfigError(
                    f"`backbone.dec_blocks`: '{entry}' adds maps of {number} x {number}, which "
                    f"must divide {side} and be those of blocks before it ({sorted(done)})."
                )
            yield DecoderPlace(side, number)
        else:
            yield from [DecoderPlace(side)] * number
        done.add(side)


def _parsed(key: str, entries: Sequence[str]) -> Iterator[tuple[str, int, str, int]]:
    """(entry, side, letter, number) of each; a side alone is one block."""
    if not entries:
        raise ConfigError(f"`backbone.{key}` is empty: its entries are as {EXAMPLES[key]}.")
    foreign = "m" if key == "enc_blocks" else "d"
    for entry in entries:
        found = ENTRY.fullmatch(entry)
        if found is None or found[2] == foreign:
            raise ConfigError(
                f"`backbone.{key}` has the entry '{entry}': entries are as {EXAMPLES[key]}."
            )
        side, letter, number = found.groups(default="")
        yield entry, int(side), letter or "x", int(number or 1)
