"""The tokenizer of a model's folder, as one that splits text the same after it was saved and loaded again."""

import json
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .sentencepiece_bpe import tokenizer_from_sentencepiece

LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


def open_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The folder's own tokenizer; a Llama `tokenizer.model` without `tokenizer.json` splits as sentencepiece.

    Raises:
        ValueError, OSError: transformers finds no tokenizer there.
    """
    settings = _settings(directory)
    has_json = (directory / "tokenizer.json").exists()
    is_llama = settings.get("tokenizer_class", LLAMA_CLASSES[0]) in LLAMA_CLASSES
    if (directory / "tokenizer.model").exists() and is_llama and not has_json:
        return _llama_tokenizer(directory, settings)
    return as_saved(AutoTokenizer.from_pretrained(directory))


def as_saved(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer in the class that loads its `tokenizer.json` as it stands.

    Other classes rebuild themselves from the vocabulary and from settings, some of which are lost when one is
    saved: a `LlamaTokenizer` with `legacy` on splits otherwise after it was saved (transformers 5.17, 5.23).
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return tokenizer  # not of the tokenizers library: it has no tokenizer.json
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        clean_up_tokenization_spaces=False,
        **tokenizer.special_tokens_map,
    )


def begin_with_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    """Put the beginning-of-sequence token before every text, as all released checkpoints want it."""
    bos = str(tokenizer.bos_token)
    backend = tokenizer.backend_tokenizer
    template = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))],
    )
    own = backend.post_processor
    backend.post_processor = template if own is None else processors.Sequence([own, template])


def _llama_tokenizer(directory: Path, settings: dict[str, Any]) -> PreTrainedTokenizerFast:
    add_bos = settings.get("add_bos_token", True) is not False
    tokenizer = tokenizer_from_sentencepiece(directory / "tokenizer.model", add_bos)
    _add_tokens(tokenizer, directory, settings)
    if pad := settings.get("pad_token"):
        tokenizer.pad_token = pad["content"] if isinstance(pad, dict) else pad
    template = directory / "chat_template.jinja"
    tokenizer.chat_template = (
        template.read_text("utf-8") if template.exists() else settings.get("chat_template")
    )
    return tokenizer


def _add_tokens(tokenizer: PreTrainedTokenizerFast, directory: Path, settings: dict[str, Any]) -> None:
    """Tokens that were added after the sentencepiece model was made.

    Raises:
        ValueError: their ids do not follow the model's.
    """
    added = {int(i): entry for i, entry in settings.get("added_tokens_decoder", {}).items()}
    older = directory / "added_tokens.json"
    if not added and older.exists():
        added = {i: {"content": token} for token, i in json.loads(older.read_text(encoding="utf-8")).items()}
    known = len(tokenizer)
    for i in sorted(i for i in added if i >= known):
        entry = added[i]
        token = AddedToken(entry["content"], normalized=False, special=entry.get("special", True))
        tokenizer.add_tokens([token], special_tokens=token.special)
        if tokenizer.convert_tokens_to_ids(entry["content"]) != i:
            raise ValueError(
                f"{directory} adds the token {entry['content']!r} as {i}, but {len(tokenizer) - 1} is next"
            )


def _settings(directory: Path) -> dict[str, Any]:
    file = directory / "tokenizer_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
