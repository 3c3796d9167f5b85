"""What tokens stand for: text as they come, and the bytes of each by itself."""

import re
from functools import cache
from typing import Any

from tokenizers.decoders import DecodeStream
from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTE = re.compile("<0x([0-9A-F]{2})>")


class TextOfTokens:
    """The text of tokens as they come; that of bytes that are no UTF-8 has marks in it, as `decode` has.

    tokenizers' own stream raises where such bytes stand right after a character that was made of bytes too:
    then it begins anew, with what it had not told yet.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream: Any = DecodeStream(skip_special_tokens=True)
        self._untold: list[int] = []

    def add(self, token: int) -> str | None:
        """What is certain of the text with this token; None where it is half a character, or special."""
        self._untold.append(token)
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # tokenizers raises nothing more special
            text = self._tokenizer.decode(self._untold, skip_special_tokens=True)
            self._stream = DecodeStream(self._untold, skip_special_tokens=True)
        if text:
            self._untold = []
        return text


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
