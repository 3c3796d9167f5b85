"""An owl's tokenizer without its media tokens, as the converters of text models want it.

llama.cpp reads a byte-level tokenizer from `tokenizer.json`, and one of sentencepiece from `tokenizer.model`
only: of a `tokenizer.json` it would make pieces of equal score, and split text otherwise. A composed owl has
no `tokenizer.model` any more, so it is written anew from the vocabulary and the order of the merges.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AddedToken, PreTrainedTokenizerFast

from open_owl.chat_templates import FLATTEN_PARTS, HUMAN_AI, HUMAN_AI_TEXT
from open_owl.model import MplugOwlProcessor
from open_owl.sentencepiece_bpe import is_sentencepiece_bpe, sentencepiece_from_tokenizer


def save_text_tokenizer(processor: MplugOwlProcessor, rows: int, out: Path) -> None:
    """Writes the tokenizer of an LLM with `rows` embeddings: as many tokens, none of them a picture.

    Raises:
        ValueError: a tokenizer without `tokenizer.json`; a token that has no embedding.
    """
    tokenizer = text_tokenizer(processor, rows)
    tokenizer.save_pretrained(out)
    if is_sentencepiece_bpe(tokenizer.backend_tokenizer):
        unused = range(len(text_tokenizer(processor, rows, fill=False)), rows)
        (out / "tokenizer.model").write_bytes(sentencepiece_from_tokenizer(tokenizer, unused))
    file = out / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    # The class of transformers 5 has a name that 4 does not know.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("backend", "processor_class"):
        settings.pop(key, None)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def text_tokenizer(processor: MplugOwlProcessor, rows: int, fill: bool = True) -> PreTrainedTokenizerFast:
    """The tokenizer that the LLM had before it was given eyes.

    With `fill`, embeddings that no token has (a vocabulary padded to a round number) get tokens named as
    llama.cpp names them, so that tokens and embeddings are equal in number.
    """
    tokenizer: Any = processor.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"{type(tokenizer).__name__} has no tokenizer.json, which converters need")
    media = {processor.image_token, processor.video_token}
    named = {
        kind: token
        for kind, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str) and token not in media
    }
    text = PreTrainedTokenizerFast(
        tokenizer_object=_without_last_tokens(tokenizer.backend_tokenizer, media),
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **named,
    )
    beyond = sorted((i, token) for token, i in text.get_vocab().items() if i >= rows)
    if beyond:
        raise ValueError(
            f"the tokenizer has {beyond[0][1]!r} as {beyond[0][0]}, but the LLM has {rows} embeddings"
        )
    if fill:
        names = (f"[PAD{i}]" for i in range(len(text), rows))
        fillers: list[str | AddedToken] = [AddedToken(name, normalized=False, special=True) for name in names]
        text.add_tokens(fillers)
    text.chat_template = text_template(processor.chat_template)
    return text


def text_template(template: Any) -> Any:
    """The LLM's own chat template, without the prefix that turns pictures into tokens."""
    if template == HUMAN_AI:
        return HUMAN_AI_TEXT
    return template.removeprefix(FLATTEN_PARTS) if isinstance(template, str) else template


def _without_last_tokens(backend: Tokenizer, names: set[str]) -> Tokenizer:
    """`backend` without those of `names` that come after all other tokens.

    One that lies further in was the LLM's before: taking it out would leave a hole.
    """
    state = json.loads(backend.to_str())
    last = backend.get_vocab_size(with_added_tokens=True) - 1
    while backend.id_to_token(last) in names and any(a["id"] == last for a in state["added_tokens"]):
        state["added_tokens"] = [added for added in state["added_tokens"] if added["id"] != last]
        last -= 1
    return Tokenizer.from_str(json.dumps(state))
