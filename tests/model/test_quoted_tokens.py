"""What somebody says is text, whatever tokens it quotes; and which of it the assistant said."""

import pytest
from tests.model.chats import SLOTS, assistant, chat_ids, picture, user, words
from tests.parts import Parts
from transformers import ProcessorMixin

from open_owl.model import MplugOwlProcessor


@pytest.fixture(scope="module")
def processor(parts: Parts) -> MplugOwlProcessor:
    """An LLM with a chat template of its own; <s> is put first by the tokenizer."""
    return parts.owl("clip", "llama")[1]


@pytest.fixture(scope="module")
def released_form(parts: Parts) -> MplugOwlProcessor:
    """An LLM without a chat template, which gets the released form."""
    return parts.owl("clip", "mistral")[1]


@pytest.mark.parametrize("which", ["processor", "released_form"])
@pytest.mark.parametrize("typed", ["<image>", "</s>", "<s>", "<|video|>", "<unk>"])
def test_a_special_token_that_a_user_types_is_only_text(request, which, typed):
    processor = request.getfixturevalue(which)
    plain = chat_ids(processor, [user(picture(), "what is xyz ?")])
    out = chat_ids(processor, [user(picture(), f"what is {typed} ?")])
    tokenizer = processor.tokenizer
    for token in (*tokenizer.all_special_tokens, processor.image_token, processor.video_token):
        token_id = tokenizer.convert_tokens_to_ids(token)
        counts = [int((one["input_ids"] == token_id).sum()) for one in (out, plain)]
        assert counts[0] == counts[1], token
    assert words(processor, out["input_ids"][0]) == words(processor, plain["input_ids"][0]).replace(
        "xyz", typed
    )
    assert out["pixel_values"].shape[0] == 1


def test_a_plain_string_that_quotes_a_placeholder_is_only_text(processor):
    out = chat_ids(processor, [{"role": "user", "content": "what does <image> mean?"}])
    assert processor.image_token_id not in out["input_ids"]
    assert "what does <image> mean?" in words(processor, out["input_ids"][0])


def test_a_plain_string_holds_placeholders_where_pictures_come_beside_the_messages(processor):
    messages = [{"role": "user", "content": "<image>\nwhat?"}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    out = processor(text=text, images=[picture()], add_special_tokens=False)
    assert out["input_ids"][0] == chat_ids(processor, [user(picture(), "what?")])["input_ids"][0].tolist()


def test_quoted_tokens_in_several_turns_of_a_batch_leave_every_picture_its_place(processor):
    first = [
        user(picture("red"), "is <image> HTML?"),
        assistant("Yes, <image> </s> is."),
        user("and?", picture("blue")),
    ]
    second = [user("no picture")]
    out = chat_ids(processor, [first, second], processor_kwargs={"padding": True, "padding_side": "left"})
    assert out["pixel_values"].shape[0] == 2
    rows = [
        words(processor, row[mask.bool()])
        for row, mask in zip(out["input_ids"], out["attention_mask"], strict=True)
    ]
    assert rows[0].count("[<image>]") == 2
    assert "[<image>]\nis <image> HTML?" in rows[0]
    assert "Yes, <image> </s> is." in rows[0]
    assert (out["input_ids"] == processor.image_token_id).sum(-1).tolist() == [2 * SLOTS, 0]
    assert rows[1] == words(processor, chat_ids(processor, second)["input_ids"][0])


def test_words_around_a_quoted_token_are_split_as_if_it_were_not_known(processor):
    """Some tokenizers put a space before every piece that they get, so pieces must not become smaller."""
    marked = f"{processor.image_token}a {processor.protect('<image>')} b"
    ids = processor.tokenize_literally(marked, add_special_tokens=True)
    same = processor.tokenizer.encode("a <image> b", add_special_tokens=False, split_special_tokens=True)
    assert ids == [processor.tokenizer.bos_token_id, processor.image_token_id, *same]


def test_the_assistants_tokens_can_be_had_as_a_mask(released_form):
    messages = [user(picture(), "one?"), assistant("A cup."), user("two?"), assistant("No.")]
    asked = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    if not hasattr(ProcessorMixin, "_adjust_assistant_masks_indices"):  # transformers 5.17
        with pytest.raises(ValueError, match="misplaces the assistant tokens mask"):
            released_form.apply_chat_template(messages, **asked)
        return
    out = released_form.apply_chat_template(messages, return_tensors="pt", **asked)
    ids = out["input_ids"][0][out["assistant_masks"][0].bool()]
    assert released_form.tokenizer.decode(ids) == "A cup.</s>No.</s>"


def test_the_mask_of_the_assistants_tokens_is_refused_where_tokens_are_quoted(released_form):
    with pytest.raises(ValueError, match=r"cannot be had for a text that quotes|misplaces the assistant"):
        released_form.apply_chat_template(
            [user("<image>?"), assistant("Yes.")],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
