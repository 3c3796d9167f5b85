"""What a single token stands for, by itself."""

import re
from functools import cache
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTE = re.compile("<0x([0-9A-F]{2})>")


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes that the token adds to a text; those of all tokens joined are the text.

    `decode` of one token would drop the space that a word begins with, and show half a character as a mark.
    """
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is None:
        return b""
    if token in tokenizer.all_special_ids:
        return piece.encode()
    if tokenizer.backend_tokenizer.decoder is None:  # its tokens are words, which are joined by spaces
        return f" {piece}".encode()
    if "ByteLevel" in str(tokenizer.backend_tokenizer.decoder):
        return bytes(_byte_of().get(character, ord("?")) for character in piece)
    byte = BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


@cache
def _byte_of() -> dict[str, int]:
    """The byte for which each character of a byte-level vocabulary stands."""
    return {character: byte for byte, character in bytes_to_unicode().items()}
