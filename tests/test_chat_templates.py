"""The LLM's own template behind the prefix, and the released conversation form."""

import json
from pathlib import Path

import jinja2
import pytest
from tests.parts import Parts, picture
from transformers import AutoTokenizer

from open_owl.chat_templates import with_media_parts

USER = {"role": "user", "content": "What is it?"}
ASSISTANT = {"role": "assistant", "content": "A cup."}
AGAIN = {"role": "user", "content": " And now? "}
OWN_TEMPLATE = ("qwen3", "llama", "gemma")


def image() -> dict:
    return {"type": "image"}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


@pytest.mark.parametrize("llm", OWN_TEMPLATE)
def test_the_llms_own_template_is_kept_verbatim_at_the_end(parts: Parts, llm: str) -> None:
    own = AutoTokenizer.from_pretrained(parts.llm(llm)).chat_template
    assert parts.owl("siglip", llm)[1].chat_template.endswith(own)


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("llm", OWN_TEMPLATE)
def test_text_alone_renders_as_the_llm_renders_it(parts: Parts, llm: str, prompt: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts.llm(llm))
    processor = parts.owl("siglip", llm)[1]
    system = [{"role": "system", "content": "Be brief."}]
    for messages in ([USER], [USER, ASSISTANT, AGAIN], [*system, USER] if llm != "gemma" else [USER]):
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert processor.apply_chat_template(messages, add_generation_prompt=prompt) == wanted
        in_parts = [{**m, "content": [text(m["content"])]} for m in messages]
        assert processor.apply_chat_template(in_parts, add_generation_prompt=prompt) == wanted


@pytest.mark.parametrize("own", ["\n{{ 'x' }}", "  {{ 'x' }}", "\n\n{%- if true %}x{% endif %}", "plain"])
def test_white_space_before_the_llms_template_stays(parts: Parts, own: str) -> None:
    tokenizer = parts.owl("siglip", "llama")[1].tokenizer
    alone = tokenizer.apply_chat_template([USER], chat_template=own, tokenize=False)
    assert tokenizer.apply_chat_template([USER], chat_template=with_media_parts(own), tokenize=False) == alone


@pytest.mark.parametrize("llm", [*OWN_TEMPLATE, "mistral"])  # mistral has none, so it gets the released form
@pytest.mark.parametrize(
    ("string", "in_parts"),
    [
        ("<image>\nhello", [image(), text("hello")]),
        ("<image>\n<image>\nwhich?", [image(), image(), text("which?")]),
        ("this\n<image>\nor that\n<image>", [text("this"), image(), text("or that"), image()]),
        ("<|video|>\nwhat happens?", [{"type": "video"}, text("what happens?")]),
        ("<image>\nhello", [{"type": "image_url", "image_url": {"url": "a.png"}}, text("hello")]),
    ],
)
def test_string_and_part_form_give_the_same_text(parts: Parts, llm: str, string: str, in_parts: list) -> None:
    template = parts.owl("siglip", llm)[1].chat_template
    tokenizer = parts.owl("siglip", llm)[1].tokenizer
    as_string, as_parts = (
        tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
        for content in (string, in_parts)
    )
    assert as_string == as_parts
    assert as_string.count("<image>") == string.count("<image>")


@pytest.mark.parametrize("llm", [*OWN_TEMPLATE, "mistral"])
def test_string_and_part_form_give_the_same_ids(parts: Parts, llm: str, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "1.png")
    processor = parts.owl("siglip", llm)[1]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    content = [{"type": "image", "path": str(tmp_path / "1.png")}, text("hello")]
    by_parts = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": "<image>\nhello"}], add_generation_prompt=True
    )
    has_beginning = rendered.startswith("<s>")
    by_string = processor(
        text=rendered, images=[picture(1)], add_special_tokens=not has_beginning, return_tensors="pt"
    )
    assert by_parts["input_ids"].tolist() == by_string["input_ids"].tolist()
    assert (by_parts["input_ids"] == processor.image_token_id).sum() == 5
    assert (by_parts["input_ids"] == processor.tokenizer.bos_token_id).sum() == 1


def released_messages() -> dict[str, list[dict]]:
    return {
        "one_image": [{"role": "user", "content": [image(), text("Explain why this meme is funny.")]}],
        "two_images": [{"role": "user", "content": [image(), image(), text("Do the two pictures differ?")]}],
        "multi_turn": [
            {"role": "user", "content": [image(), text("What is it?")]},
            {"role": "assistant", "content": [text("A cup.")]},
            {"role": "user", "content": [text("And this?"), image()]},
        ],
        "text_only": [{"role": "user", "content": [text("What does an owl eat?")]}],
    }


@pytest.mark.parametrize("name", list(released_messages()))
def test_messages_become_the_released_prompts(parts: Parts, shared: Path, name: str) -> None:
    """But for BOS, which the released tokenizer adds, and EOS after a past answer, as in training rows."""
    cases = json.loads((shared / "released" / "llama-tiny" / "cases.json").read_text())
    wanted = next(case["prompt"] for case in cases if case["name"] == name)
    processor = parts.owl("siglip", "mistral")[1]
    given = processor.apply_chat_template(released_messages()[name], add_generation_prompt=True)
    assert given.startswith("<s>")
    assert given.removeprefix("<s>").replace("A cup.</s>", "A cup.") == wanted
    assert given.count("</s>") == wanted.count("A cup.")


def test_the_released_form_takes_another_system_text_and_marks_its_answers(parts: Parts) -> None:
    tokenizer = parts.owl("siglip", "mistral")[1].tokenizer
    template = parts.owl("siglip", "mistral")[1].chat_template
    messages = [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]
    rendered = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert rendered == "<s>Be brief.\nHuman: What is it?\nAI: A cup.</s>"
    marked = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    answer = [
        i for i, is_answer in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if is_answer
    ]
    assert tokenizer.decode(answer) == "A cup.</s>"


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "tool", "content": "42"}, "role tool is unknown here"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "unknown content part input_audio"),
    ],
)
def test_what_a_template_cannot_render_is_refused_by_name(
    parts: Parts, message: dict, complaint: str
) -> None:
    processor = parts.owl("siglip", "mistral")[1]
    with pytest.raises(jinja2.exceptions.TemplateError, match=complaint):
        processor.tokenizer.apply_chat_template(
            [message], chat_template=processor.chat_template, tokenize=False
        )
