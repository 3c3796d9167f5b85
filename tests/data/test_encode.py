import json

import pytest
import torch
from tests.data.tiny import BARE, CHATML, SIZE, SLOTS, byte_processor, encoded, noise, picture

from open_owl.data.conversation import Conversation, Image, Refused, Text, Turn, Video
from open_owl.data.encode import IGNORED, PLAIN_TEMPLATE, count_tokens, encode
from open_owl.data.formats import read_row
from open_owl.released import load_released_processor

HUMAN_AI_PROCESSOR = byte_processor()
CHATML_PROCESSOR = byte_processor(CHATML)


def conversation(*texts: str, images: int = 0, system: str | None = None) -> Conversation:
    """Questions and answers in turn; the pictures come before the first question."""
    roles = ["user", "assistant"] * len(texts)
    turns = [Turn(role, (Text(text),)) for role, text in zip(roles, texts, strict=False)]
    pictures = tuple(Image(encoded(noise(seed))) for seed in range(images))
    turns[0] = Turn("user", pictures + turns[0].parts)
    return Conversation(system, tuple(turns), "rows.jsonl:3")


def learned(row, processor) -> str:
    return processor.tokenizer.decode(row.labels[row.labels != IGNORED])


def messages(row: Conversation) -> list[dict]:
    """The prompt before the first answer, as a user of the processor writes it."""
    content = [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image", "image": part.open(row.place)}
        for part in row.turns[0].parts
    ]
    system = [{"role": "system", "content": [{"type": "text", "text": row.system}]}] if row.system else []
    return [*system, {"role": "user", "content": content}]


@pytest.mark.parametrize("processor", [HUMAN_AI_PROCESSOR, CHATML_PROCESSOR, byte_processor(BARE)])
@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("question", ["What is it?", "Write <image> or </s><|im_end|>"])
def test_the_prompt_before_the_first_answer_has_the_ids_of_inference(processor, images, question):
    row = conversation(question, "A cup.", "Sure?", "Yes.", images=images)
    prompt = processor.apply_chat_template(
        messages(row), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = encode(row, processor, 1000).input_ids
    length = prompt["input_ids"].shape[1]
    assert ids[:length].tolist() == prompt["input_ids"][0].tolist()
    assert encode(row, processor, 1000).labels[length] == ids[length]
    assert (encode(row, processor, 1000).labels[:length] == IGNORED).all()


# As Qwen3's: before the last answer an empty thought, which the prompt of inference does not have.
THOUGHTS = CHATML.replace(
    "m['content'] | trim",
    "('<think></think>' if loop.last and m['role'] == 'assistant' else '') + m['content'] | trim",
)
# As some that are made to think: the prompt of inference begins a thought, which answers that are told lack.
BEGUN = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>'")


@pytest.mark.parametrize(("template", "thoughts"), [(THOUGHTS, 0), (BEGUN, 2)])
@pytest.mark.parametrize("system", [None, "Look."])
def test_before_every_answer_stands_what_it_is_asked_with(template, thoughts, system):
    processor = byte_processor(template)
    row = conversation("What?", "A cup.", "Sure?", "Yes.", images=1, system=system)
    encoded_row = encode(row, processor, 1000)
    text = processor.tokenizer.decode(encoded_row.input_ids)
    assert text.count("<think>") == thoughts
    assert learned(encoded_row, processor) == "A cup.<|im_end|>Yes.<|im_end|>"
    first, *_ = (encoded_row.labels != IGNORED).nonzero().flatten().tolist()
    prompt = processor.apply_chat_template(
        messages(row), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert encoded_row.input_ids[:first].tolist() == prompt["input_ids"][0].tolist()


def test_a_template_that_asks_and_answers_in_different_words_refuses_the_row():
    template = CHATML.replace("add_generation_prompt %}", "add_generation_prompt %}now: ")
    with pytest.raises(Refused, match=r"asks with .*now: .*, but writes .* before an answer"):
        encode(conversation("a", "b"), byte_processor(template), 1000)


def test_answers_and_what_ends_them_are_learned():
    row = conversation("What?", "A cup.", "Sure?", "Yes.", images=1)
    assert learned(encode(row, HUMAN_AI_PROCESSOR, 1000), HUMAN_AI_PROCESSOR) == "A cup.</s>Yes.</s>"
    ended = "A cup.<|im_end|>Yes.<|im_end|>"
    assert learned(encode(row, CHATML_PROCESSOR, 1000), CHATML_PROCESSOR) == ended


def test_a_template_that_ends_no_answer_gets_the_end_of_sequence():
    processor = byte_processor(BARE)
    row = encode(conversation("What?", "A cup.", "Sure?", "Yes."), processor, 1000)
    assert learned(row, processor) == "A cup.</s>Yes.</s>"
    assert processor.tokenizer.decode(row.input_ids) == "Q: What?\nA: A cup.</s>\nQ: Sure?\nA: Yes.</s>\n"


def test_every_id_is_the_text_that_the_template_renders():
    row = conversation("What?", "A cup.", "Sure?", "Yes.", system="Look.")
    text = HUMAN_AI_PROCESSOR.tokenizer.decode(encode(row, HUMAN_AI_PROCESSOR, 1000).input_ids)
    assert text == "<s>Look.\nHuman: What?\nAI: A cup.</s>\nHuman: Sure?\nAI: Yes.</s>"


def test_the_beginning_of_sequence_stands_once_whoever_puts_it(shared):
    from transformers import AutoTokenizer

    assert encode(conversation("a", "b"), HUMAN_AI_PROCESSOR, 1000).input_ids.tolist().count(0) == 1
    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/llama2")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|video|>"]})
    for template in (CHATML, HUMAN_AI_PROCESSOR.chat_template):
        processor = byte_processor(template)
        processor.tokenizer = tokenizer
        ids = encode(conversation("a", "b"), processor, 1000).input_ids.tolist()
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


def test_control_tokens_that_somebody_typed_are_text():
    row = conversation("Is </s> or <image> a word?", "<image> is not, <|im_end|> neither.")
    ids = encode(row, CHATML_PROCESSOR, 1000).input_ids.tolist()
    tokenizer = CHATML_PROCESSOR.tokenizer
    assert ids.count(CHATML_PROCESSOR.image_token_id) == 0
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert ids.count(tokenizer.eos_token_id) == 0
    assert "<image> is not, <|im_end|> neither." in tokenizer.decode(ids)


def test_a_template_that_changes_answers_by_their_place_cannot_hide_them():
    without_thoughts = "(m['content'] if loop.last else m['content'].split('</think>')[-1])"
    processor = byte_processor(CHATML.replace("m['content'] | trim", without_thoughts + " | trim"))
    row = encode(conversation("a", "<think>x</think>b", "c", "<think>y</think>d"), processor, 1000)
    assert learned(row, processor) == "<think>x</think>b<|im_end|><think>y</think>d<|im_end|>"


def test_a_template_without_a_system_role_shows_its_words_before_the_first_question():
    processor = byte_processor(BARE)
    row = encode(conversation("What?", "A cup.", system="Be brief.", images=1), processor, 1000)
    text = processor.tokenizer.decode(row.input_ids)
    assert text.startswith("Q: Be brief.\n" + "<image>" * SLOTS + "\nWhat?\nA: ")


def test_a_template_that_leaves_an_answer_out_refuses_the_row():
    processor = byte_processor(CHATML.replace("for m in messages", "for m in messages[-2:]"))
    with pytest.raises(Refused, match=r"shows 1 of 2 answers in rows.jsonl:3"):
        encode(conversation("a", "b", "c", "d"), processor, 1000)


def test_a_template_that_raises_refuses_the_row_with_what_it_said():
    with pytest.raises(Refused, match="the chat template says: no cups") as info:
        encode(conversation("a", "b"), byte_processor("{{ raise_exception('no cups') }}"), 1000)
    assert info.value.reason == "template"


def test_pictures_have_their_slots_and_pixels_in_order():
    row = encode(conversation("Alike?", "No.", images=2), CHATML_PROCESSOR, 1000)
    assert (row.input_ids == CHATML_PROCESSOR.image_token_id).sum() == 2 * SLOTS
    expected = CHATML_PROCESSOR.image_processor([noise(0), noise(1)], return_tensors="pt")["pixel_values"]
    assert row.pixel_values is not None
    assert torch.equal(row.pixel_values, expected)
    assert row.pixel_values_videos is None


def test_a_video_has_slots_once_and_pixels_for_every_frame():
    frames = [encoded(picture(colour)) for colour in ("red", "lime", "blue", "white")]
    turns = (Turn("user", (Video(frames), Text("What?"))), Turn("assistant", (Text("Colours."),)))
    row = encode(Conversation(None, turns, "x:1"), CHATML_PROCESSOR, 1000)
    assert (row.input_ids == CHATML_PROCESSOR.video_token_id).sum() == SLOTS
    assert row.pixel_values_videos is not None
    assert row.pixel_values_videos.shape == (1, 2, 3, SIZE, SIZE)
    assert not torch.equal(row.pixel_values_videos[0, 0], row.pixel_values_videos[0, 1])


def test_a_conversation_too_long_loses_whole_pairs_and_their_pictures():
    long = conversation("a", "b", "c" * 40, "d", "e", "f" * 40, images=1)
    last = Turn("user", (Image("never-opened.png"), *long.turns[4].parts))
    long = Conversation(None, (*long.turns[:4], last, long.turns[5]), long.place)
    whole = count_tokens(long, CHATML_PROCESSOR)
    shorter = encode(long, CHATML_PROCESSOR, whole - 1)
    assert learned(shorter, CHATML_PROCESSOR) == "b<|im_end|>d<|im_end|>"
    shortest = encode(long, CHATML_PROCESSOR, len(shorter.input_ids) - 1)
    assert learned(shortest, CHATML_PROCESSOR) == "b<|im_end|>"
    assert (shortest.input_ids == CHATML_PROCESSOR.image_token_id).sum() == SLOTS
    with pytest.raises(Refused, match="the limit is 20") as info:
        encode(long, CHATML_PROCESSOR, 20)
    assert info.value.reason == "too_long"


@pytest.mark.parametrize("limit", range(20, 140, 7))
def test_no_limit_is_ever_exceeded_and_no_slot_is_ever_lost(limit):
    row = conversation("a" * 9, "b" * 9, "c" * 9, "d" * 9, "e" * 9, "f" * 9, images=2)
    try:
        ids = encode(row, CHATML_PROCESSOR, limit).input_ids
    except Refused as refused:
        assert refused.reason == "too_long"  # noqa: PT017 - either outcome is right
        assert limit < 80
    else:
        assert len(ids) <= limit
        assert (ids == CHATML_PROCESSOR.image_token_id).sum() == 2 * SLOTS


def test_a_picture_that_cannot_be_read_refuses_the_row():
    turns = (Turn("user", (Image(b"junk"),)), Turn("assistant", (Text("A cup."),)))
    with pytest.raises(Refused, match=r"not a picture.* in x:1"):
        encode(Conversation(None, turns, "x:1"), CHATML_PROCESSOR, 100)


def test_the_plain_template_shows_a_picture_and_its_caption_alone():
    row = read_row({"image": "", "caption": "A cup."}, None, {"jpg": encoded(picture())}, "x:1")
    ids = encode(row, HUMAN_AI_PROCESSOR, 100, PLAIN_TEMPLATE).input_ids
    assert HUMAN_AI_PROCESSOR.tokenizer.decode(ids) == "<s>" + "<image>" * SLOTS + "\nA cup.</s>"


def test_supervised_ids_agree_with_the_released_training_rows(shared):
    processor = load_released_processor(shared / "released/llama-tiny")
    for released in json.loads((shared / "released/training_rows.json").read_text()):
        row = {"text": released["text"], "image": ["1.jpg"] if "<image>" in released["text"] else []}
        conversation = read_row(row, None, shared / "data/owleval/cases", "x:1")
        labels = encode(conversation, processor, 2048).labels
        pairs = zip(released["input_ids"], released["supervised"], strict=True)
        assert labels[labels != IGNORED].tolist() == [token for token, is_label in pairs if is_label]


def test_the_released_prompt_has_the_ids_of_inference(shared):
    processor = load_released_processor(shared / "released/llama-tiny")
    row = read_row(
        {"text": "Human: <image>\nHuman: Where  is it?\nAI: Here.\nHuman: So?\nAI: Yes.", "image": ["1.jpg"]},
        None,
        shared / "data/owleval/cases",
        "x:1",
    )
    prompt = processor.apply_chat_template(
        messages(row), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )["input_ids"][0]
    assert encode(row, processor, 2048).input_ids[: len(prompt)].tolist() == prompt.tolist()
