"""The little LLM's tokenizer: one token a word, lower-cased, saved as an ordinary fast tokenizer."""

from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .words import vocabulary

PAD, BOS, EOS, UNK, HUMAN, AI = "<pad>", "<s>", "</s>", "<unk>", "<|human|>", "<|ai|>"
SPECIAL = (PAD, BOS, EOS, UNK, HUMAN, AI)

# A turn of the human is "<|human|> ... ", one of the model "<|ai|> ... </s>".
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|human|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|ai|>' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|ai|>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `words.vocabulary()`; a word it does not know becomes `<unk>`."""
    words = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return as_llm_tokenizer(tokenizer, model_max_length=512)


def as_llm_tokenizer(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    """The tokenizer of a little LLM, with its special tokens and its chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[HUMAN, AI],
        chat_template=CHAT_TEMPLATE,
        padding_side="right",
        **options,
    )
