"""The block layout of a very deep VAE, in the notation of the original code."""

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
class EncoderBlockSpec:
    """A block on maps of `side` x `side` pixels, whose output is averaged over `down` x `down`."""

    side: int
    down: int = 1

    @property
    def output_side(self) -> int:
        return self.side // self.down


@dataclass(frozen=True)
class DecoderBlockSpec:
    """A block on maps of `side` x `side`; `mixin` is the side of smaller maps it adds, if any."""

    side: int
    mixin: int | None = None


@dataclass(frozen=True)
class Layout:
    """All blocks in the order of the forward pass."""

    encoder: tuple[EncoderBlockSpec, ...]
    decoder: tuple[DecoderBlockSpec, ...]

    @property
    def image_size(self) -> int:
        return self.encoder[0].side

    @property
    def decoder_sides(self) -> list[int]:
        """Sides of the decoder's maps, ascending."""
        return sorted({block.side for block in self.decoder})

    def sides(self) -> list[int]:
        """Side of the map after each block, the encoder's first."""
        return [*(block.output_side for block in self.encoder), *(b.side for b in self.decoder)]

    def last_of_each_side(self) -> dict[tuple[str, int], int]:
        """('encoder' or 'decoder', side) -> index of the last block with a map of that side.

        Indices run through encoder and decoder. These maps of the encoder enter the decoder.
        """
        parts = ["encoder"] * len(self.encoder) + ["decoder"] * len(self.decoder)
        return {key: i for i, key in enumerate(zip(parts, self.sides(), strict=True))}


def read_layout(enc_blocks: Sequence[str], dec_blocks: Sequence[str]) -> Layout:
    """Parse entries such as `32x11`, `32d2`, `32m16`; one without a letter is a single block.

    Raises ConfigError for an entry that cannot be parsed, and for blocks that cannot follow each
    other. Source: openai/vdvae, `parse_layer_string` in `vae.py`, `enc_blocks` and `dec_blocks` in
    `hps.py`.
    """
    encoder = tuple(_encoder(enc_blocks))
    sides = {encoder[0].side} | {block.output_side for block in encoder}
    return Layout(encoder, tuple(_decoder(dec_blocks, sides)))


def _encoder(entries: Sequence[str]) -> Iterator[EncoderBlockSpec]:
    side = None
    for entry, input_side, letter, number in _parse("enc_blocks", entries):
        if side is not None and input_side != side:
            raise ConfigError(
                f"`backbone.enc_blocks`: '{entry}' follows blocks that leave maps of {side} x "
                f"{side}. A block whose maps are to become smaller is written as {side}d2."
            )
        side = input_side
        if letter == "d":
            if side % number:
                raise ConfigError(
                    f"`backbone.enc_blocks`: '{entry}' cannot divide maps of {side} x {side} by "
                    f"{number}."
                )
            yield EncoderBlockSpec(side, number)
            side //= number
        else:
            yield from [EncoderBlockSpec(side)] * number


def _decoder(entries: Sequence[str], encoder_sides: set[int]) -> Iterator[DecoderBlockSpec]:
    earlier: set[int] = set()
    for entry, side, letter, number in _parse("dec_blocks", entries):
        if side not in encoder_sides:
            raise ConfigError(
                f"`backbone.dec_blocks`: '{entry}' needs maps of {side} x {side} from the encoder, "
                f"whose sides are {sorted(encoder_sides)}."
            )
        if letter == "m":
            if number not in earlier or number >= side or side % number:
                raise ConfigError(
                    f"`backbone.dec_blocks`: '{entry}' adds maps of {number} x {number}, which "
                    f"must divide {side} and be those of blocks before it ({sorted(earlier)})."
                )
            yield DecoderBlockSpec(side, number)
        else:
            yield from [DecoderBlockSpec(side)] * number
        earlier.add(side)


def _parse(key: str, entries: Sequence[str]) -> Iterator[tuple[str, int, str, int]]:
    """(entry, side, letter, number) of each entry; a side without a letter is one block."""
    if not entries:
        raise ConfigError(f"`backbone.{key}` is empty: its entries are as {EXAMPLES[key]}.")
    forbidden = "m" if key == "enc_blocks" else "d"
    for entry in entries:
        match = ENTRY.fullmatch(entry)
        if match is None or match[2] == forbidden:
            raise ConfigError(
                f"`backbone.{key}` has the entry '{entry}': entries are as {EXAMPLES[key]}."
            )
        side, letter, number = match.groups(default="")
        yield entry, int(side), letter or "x", int(number or 1)
