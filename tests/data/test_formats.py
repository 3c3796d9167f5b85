import base64
import json
import random
from pathlib import Path

import pytest
from tests.data.tiny import encoded, picture

from open_owl.data.conversation import Conversation, Image, Refused, Text, Video
from open_owl.data.formats import CaptionSettings, detect_format, read_row
from open_owl.data.rows import raw_rows

HERE = Path("/pictures")


def read(row, media=HERE, **settings) -> Conversation:
    return read_row(row, None, media, "rows.jsonl:817", **settings)


def refused(row, media=HERE) -> Refused:
    with pytest.raises(Refused) as info:
        read(row, media)
    return info.value


def said(row: Conversation) -> list[tuple[str, tuple]]:
    """Turns with texts as strings and media as what they would open."""
    bare = [tuple(p.text if isinstance(p, Text) else p.source for p in turn.parts) for turn in row.turns]
    return [(turn.role, parts) for turn, parts in zip(row.turns, bare, strict=True)]


def chat(*values: str) -> list[dict]:
    roles = ["human", "gpt"] * len(values)
    return [{"from": role, "value": value} for role, value in zip(roles, values, strict=False)]


def test_llava_rows_put_pictures_where_the_placeholders_are():
    row = read({"image": "a.jpg", "conversations": chat("<image>\nWhat is it?", "A cup.", "Sure?", "Yes.")})
    assert said(row) == [
        ("user", (HERE / "a.jpg", "What is it?")),
        ("assistant", ("A cup.",)),
        ("user", ("Sure?",)),
        ("assistant", ("Yes.",)),
    ]
    two = read({"images": ["a.jpg", "b.jpg"], "conversations": chat("<image> and <image>: alike?", "No.")})
    assert said(two)[0] == ("user", (HERE / "a.jpg", "and", HERE / "b.jpg", ": alike?"))


def test_a_wrong_number_of_pictures_is_refused_with_both_numbers_and_the_place():
    error = refused({"images": ["a", "b", "c"], "conversations": chat("<image><image> Same?", "No.")})
    assert error.reason == "image_count"
    assert str(error) == (
        "3 images but 2 <image> placeholders in rows.jsonl:817; add a placeholder or drop an image"
    )
    assert refused({"conversations": chat("<image> What?", "It.")}).reason == "image_count"
    assert refused({"image": "a", "conversations": chat("What?", "It.")}).reason == "image_count"


def test_a_placeholder_in_an_answer_is_text():
    row = read({"image": "a.jpg", "conversations": chat("<image> Which tag?", "Write <image>.")})
    assert row.answers == ["Write <image>."]


def test_sharegpt_rows_keep_the_system_turn_and_know_other_names_of_roles():
    row = read({"conversations": [{"from": "system", "value": "Be brief."}, *chat("Hi", "Hello")]})
    assert row.system == "Be brief."
    other = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert said(read({"conversations": other, "system": "S"})) == said(row)


def test_rows_that_call_tools_are_refused_and_not_half_read():
    calls = [*chat("Weather?"), {"from": "function_call", "value": "{}"}]
    assert refused({"conversations": calls}).reason == "tool_turns"
    message = {"role": "assistant", "content": None, "tool_calls": [{}]}
    assert refused({"messages": [{"role": "user", "content": "Weather?"}, message]}).reason == "tool_turns"


def test_an_unknown_role_and_a_late_system_turn_are_refused():
    assert refused({"conversations": [{"from": "narrator", "value": "x"}]}).reason == "bad_role"
    late = [*chat("Hi", "Hello"), {"from": "system", "value": "x"}]
    assert refused({"conversations": late}).reason == "turn_order"


def test_messages_with_strings_take_pictures_from_the_list():
    messages = [{"role": "user", "content": "What?<image>"}, {"role": "assistant", "content": "A cup."}]
    row = read({"messages": messages, "images": ["a.jpg"]})
    assert said(row)[0] == ("user", ("What?", HERE / "a.jpg"))


def test_messages_with_parts_hold_their_pictures_as_paths_and_data_uris():
    data = encoded(picture())
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    content = [
        {"type": "text", "text": "Alike?"},
        {"type": "image", "path": "a.png"},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image", "image": "file:///b.png"},
    ]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Look."}]},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "No."},
    ]
    row = read({"messages": messages})
    assert said(row)[0] == ("user", ("Alike?", HERE / "a.png", data, Path("/b.png")))
    assert row.system == "Look."


def test_a_literal_placeholder_inside_a_text_part_is_text():
    part = {"type": "text", "text": "What does <image> mean?"}
    row = read(
        {"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "A tag."}]}
    )
    assert said(row)[0] == ("user", ("What does <image> mean?",))


def parts_of(answer: str, *question: dict) -> list[dict]:
    answered = [{"type": "text", "text": answer}]
    return [{"role": "user", "content": list(question)}, {"role": "assistant", "content": answered}]


def test_media_of_a_row_of_parts_that_no_part_shows_are_refused():
    text, shown = {"type": "text", "text": "<image>\nWhat?"}, {"type": "image", "path": "a.jpg"}
    error = refused({"images": ["a.jpg"], "messages": parts_of("A cup.", text)})
    assert error.reason == "image_count"
    assert "1 images that no part of the messages shows in rows.jsonl:817" in str(error)
    strings = [{"role": "user", "content": "<image>\nWhat?"}, parts_of("A cup.")[1]]
    assert refused({"images": ["a.jpg"], "messages": strings}).reason == "image_count"
    both = {"images": ["a.jpg", "b.jpg"], "messages": parts_of("A cup.", shown, text)}
    assert refused(both).reason == "image_count"
    assert refused({"video": "a.mp4", "messages": parts_of("Rain.", text)}).reason == "video_count"
    named = read({"images": ["a.jpg"], "messages": parts_of("A cup.", shown)})
    assert said(named)[0] == ("user", (HERE / "a.jpg",))


def test_a_member_of_a_sample_that_no_part_shows_is_refused():
    text, shown = {"type": "text", "text": "What?"}, {"type": "image", "path": "x.0.jpg"}
    frames = {"type": "video", "video": ["x.0.jpg", "x.1.jpg"]}
    sample = {"0.jpg": b"first", "1.jpg": b"second"}
    assert refused({"messages": parts_of("A cup.", text)}, sample).reason == "image_count"
    assert refused({"messages": parts_of("A cup.", shown, text)}, sample).reason == "image_count"
    assert refused({"messages": parts_of("A cup.", text)}, {"mp4": b"film"}).reason == "video_count"
    assert read({"messages": parts_of("A cup.", frames)}, sample).videos == [Video([b"first", b"second"])]


def test_alpaca_rows_join_instruction_and_input():
    row = read({"instruction": "Use the past tense", "input": "shudder", "output": "She shuddered."})
    assert said(row) == [("user", ("Use the past tense\nshudder",)), ("assistant", ("She shuddered.",))]
    more = read({"instruction": "C", "output": "D", "history": [["A", "B"]], "system": "S"})
    assert said(more) == [("user", ("A",)), ("assistant", ("B",)), ("user", ("C",)), ("assistant", ("D",))]
    assert more.system == "S"


def test_a_tag_in_a_row_of_text_alone_is_text():
    row = read({"instruction": "Explain the <image> tag.", "output": "It shows a picture."})
    assert said(row)[0] == ("user", ("Explain the <image> tag.",))
    words = read({"conversations": chat("What is <video>?", "An element.")})
    assert said(words)[0] == ("user", ("What is <video>?",))


def test_alpaca_rows_in_a_tar_show_the_pictures_of_their_sample():
    row, sample = {"instruction": "<image>\nWhat?", "output": "A cup."}, {"jpg": b"picture"}
    assert said(read(row, sample))[0] == ("user", (b"picture", "What?"))
    assert refused({**row, "instruction": "What?"}, sample).reason == "image_count"


@pytest.mark.parametrize(
    "row",
    [
        {"input": "[|Human|] <image> What?\n[|AI|] A cup."},
        {"instruction": "<image> What?", "instances": [{"input": "", "output": "A cup."}]},
    ],
    ids=["baize", "self_instruct"],
)
def test_a_picture_in_a_format_of_text_alone_is_refused(row):
    assert read(row, {}).answers == ["A cup."]
    error = refused(row, {"jpg": b"picture"})
    assert error.reason == "media_in_text"
    assert "write the row as `conversations`" in str(error)
    assert refused({**row, "image": "a.jpg"}).reason == "media_in_text"


def test_whichever_instance_is_drawn_must_be_one():
    row = {"instruction": "Do", "instances": [{"output": "A"}, "B"]}
    assert refused(row).reason == "bad_row"
    row = {"instruction": "Do", "instances": [{"output": "A", "image": "a.jpg"}]}
    assert refused(row).reason == "media_in_text"


def test_baize_rows_are_cut_at_their_markers():
    text = "The conversation between human and AI.\n[|Human|] Hi!\n[|AI|] Hello.\nHow are you?\n[|Human|] "
    row = read({"topic": "x", "input": text})
    assert said(row) == [("user", ("Hi!",)), ("assistant", ("Hello.\nHow are you?",))]


def test_released_rows_are_cut_at_human_and_ai_lines():
    text = "Be kind.\nHuman: <image>\nHuman: Where?\nAI: Here.\nHuman: Human: or AI?\nAI: Both.\nAll."
    row = read({"image": ["a.jpg"], "text": text, "task_type": "llava_sft"})
    assert row.system == "Be kind."
    assert said(row) == [
        ("user", (HERE / "a.jpg", "Where?")),
        ("assistant", ("Here.",)),
        ("user", ("Human: or AI?",)),
        ("assistant", ("Both.\nAll.",)),
    ]


def test_videos_stand_at_their_placeholders_as_files_and_as_lists_of_frames():
    row = read({"video": "a.mp4", "conversations": chat("<video>\nWhat happens?", "Rain.")})
    assert row.turns[0].parts == (Video(HERE / "a.mp4"), Text("What happens?"))
    frames = read({"videos": [["1.jpg", "2.jpg"]], "text": "Human: <|video|>\nHuman: What?\nAI: Rain."})
    assert frames.videos == [Video([HERE / "1.jpg", HERE / "2.jpg"])]
    assert refused({"video": "a.mp4", "conversations": chat("What?", "Rain.")}).reason == "video_count"


def test_self_instruct_rows_give_one_of_their_instances_by_draw():
    instances = [{"input": "", "output": "A"}, {"input": "x", "output": "B"}]
    row = {"instruction": "Do", "instances": instances}
    assert [read(row, draw=draw).answers for draw in (0, 1, 2)] == [["A"], ["B"], ["A"]]


def test_a_caption_pair_becomes_a_picture_without_words_and_its_caption():
    row = read({"image": "a.jpg", "caption": "A red cup."})
    assert said(row) == [("user", (HERE / "a.jpg",)), ("assistant", ("A red cup.",))]


def test_a_webdataset_sample_is_a_caption_pair():
    sample = {"jpg": b"picture", "txt": "Ein Käfer".encode()}
    row = read_row({}, None, sample, "a.tar:0001")
    assert said(row) == [("user", (b"picture",)), ("assistant", ("Ein Käfer",))]


def test_prompts_are_drawn_by_place_and_draw_alone():
    how = CaptionSettings(prompts=["Describe it.", "What is this?", "Caption:"])
    row = {"image": "a.jpg", "caption": "A cup."}
    draws = [read(row, captions=how, draw=draw).turns[0].text for draw in range(20)]
    assert set(draws) == set(how.prompts or [])
    assert draws == [read(row, captions=how, draw=draw).turns[0].text for draw in range(20)]


def test_of_several_captions_the_first_or_any_is_taken():
    row = {"image": "a.jpg", "captions": ["one", "two", "three"], "caption": "zero"}
    assert read(row, draw=5).answers == ["one"]
    how = CaptionSettings(choose="any")
    assert {read(row, captions=how, draw=draw).answers[0] for draw in range(30)} == {"one", "two", "three"}


def test_a_webdataset_sample_may_hold_a_conversation_over_its_pictures():
    sample = {"0.jpg": b"first", "1.jpg": b"second"}
    row = {"conversations": chat("<image><image> Alike?", "No.")}
    assert [image.source for image in read_row(row, None, sample, "a.tar:1").images] == [b"first", b"second"]
    named = {**row, "images": ["x.1.jpg", "x.0.jpg"]}
    assert [image.source for image in read_row(named, None, sample, "a.tar:1").images] == [
        b"second",
        b"first",
    ]
    with pytest.raises(Refused, match=r"'x.2.jpg' is not in the sample, which holds 0.jpg, 1.jpg"):
        read_row({**row, "images": ["x.1.jpg", "x.2.jpg"]}, None, sample, "a.tar:1")


def test_pictures_of_a_sample_come_in_the_order_of_their_numbers():
    sample = {f"{number}.jpg": b"%d" % number for number in (10, 11, *range(10))}
    row = read({"conversations": chat("<image>" * 12 + " Which?", "None.")}, sample)
    assert [image.source for image in row.images] == [b"%d" % number for number in range(12)]


def test_media_that_are_no_files_of_this_machine_are_refused():
    assert refused({"image": "https://x.org/a.jpg", "caption": "A"}).reason == "remote_media"
    assert refused({"image": {"bytes": None}, "caption": "A"}).reason == "bad_media"
    assert refused({"image": "data:image/png;base64,@@", "caption": "A"}).reason == "bad_media"


def test_rows_without_sense_are_refused_by_reason():
    assert refused(["not", "an", "object"]).reason == "bad_row"
    assert refused({"prompt": "a", "answer": "b"}).reason == "unknown_format"
    assert "answer, prompt" in str(refused({"prompt": "a", "answer": "b"}))
    assert refused({"image": "a.jpg", "caption": " "}).reason == "no_caption"
    assert refused({"caption": "A"}).reason == "image_count"
    assert refused({"instruction": "a", "output": "\ud800"}).reason == "bad_text"
    assert refused({"instruction": "a", "output": 3}).reason == "bad_row"
    assert refused({"conversations": "a"}).reason == "bad_row"
    with pytest.raises(Refused, match="not UTF-8"):
        read_row({}, None, {"jpg": b"", "txt": b"\xff\xfe\xfa"}, "a.tar:1")


ROWS = [
    {"image": "a.jpg", "conversations": chat("<image>\nWhat?", "A cup.", "Sure?", "Yes.")},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "images": []},
    {
        "messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "b"}],
        "images": ["a"],
    },
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "f"},
    {"topic": "a", "input": "[|Human|] b [|AI|] c"},
    {"text": "Human: <image>\nAI: b", "image": ["a"], "video": []},
    {"instruction": "a", "instances": [{"input": "b", "output": "c"}]},
    {"image": "a.jpg", "caption": "b", "captions": ["c", "d"]},
]
JUNK = [
    None,
    0,
    -1.5,
    True,
    "",
    "x",
    "<image>",
    "\ud800",
    "data:,",
    [],
    {},
    [[]],
    [None],
    [{}],
    {"type": "image"},
]


def mangled(value, chance: random.Random):
    """A copy in which values here and there are something else."""
    if chance.random() < 0.15:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        return {key: mangled(one, chance) for key, one in value.items() if chance.random() > 0.05}
    if isinstance(value, list):
        return [mangled(one, chance) for one in value for _ in range(chance.choice([0, 1, 1, 1, 1, 2]))]
    return value


@pytest.mark.parametrize("seed", range(len(ROWS)))
def test_whatever_a_row_holds_it_is_read_or_refused(seed):
    chance = random.Random(seed)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        row = mangled(ROWS[seed], chance)
        media = chance.choice([HERE, {}, {"jpg": b"", "txt": b"a"}])
        try:
            conversation = read_row(row, None, media, "x:1")
            assert all(isinstance(p, Text | Image | Video) for turn in conversation.turns for p in turn.parts)
            assert [turn.role for turn in conversation.turns] == ["user", "assistant"] * (
                len(conversation.turns) // 2
            )
            outcomes["read"] += 1
        except Refused:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


REAL = {
    "instruct/alpaca.json": ("alpaca", 4776, {}),
    "instruct/alpaca_gpt4_en_demo.json": ("alpaca", 999, {}),
    "instruct/vicuna_identity_conversations.json": ("conversations", 500, {}),
    "instruct/sharegpt_glaive_toolcall.json": ("conversations", 300, {"tool_turns": 153}),
    "instruct/sharegpt_dpo_chosen.json": ("conversations", 300, {}),
    "instruct/baize_quora_chat.json": ("baize", 96, {}),
    "instruct/self_instruct_user_oriented.jsonl": ("self_instruct", 252, {}),
    "instruct/mplug_owl_readme_examples.jsonl": ("released", 2, {}),
    "instruct/llava_format/mllm_demo_messages.json": ("messages", 6, {}),
    "instruct/llava_format/owleval_mplug_owl_7b_answers.json": ("conversations", 82, {}),
    "cc12m_sample/cc12m-train-0000.tar": ("captions", 32, {}),
    "flickr8k/dev/dev-00000.tar": ("captions", 1000, {}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_whole(shared, name):
    format, rows, expected = REAL[name]
    file = shared / "data" / name
    refusals: dict[str, int] = {}
    count = 0
    for raw in raw_rows(file):
        assert not isinstance(raw, Refused)
        count += 1
        media = raw.members if file.suffix == ".tar" else file.parent
        assert detect_format(raw.parse(), raw.place, media) == format
        try:
            read_row(raw.parse(), None, media, raw.place)
        except Refused as error:
            refusals[error.reason] = refusals.get(error.reason, 0) + 1
    assert count == rows
    assert refusals == expected


def test_a_real_row_keeps_every_word(shared):
    file = shared / "data/instruct/llava_format/owleval_mplug_owl_7b_answers.json"
    for row in json.loads(file.read_text()):
        conversation = read_row(row, None, file.parent, "x:1")
        value = row["conversations"][0]["value"].replace("<image>", "").strip()
        assert conversation.turns[0].text == value
        assert conversation.answers == [row["conversations"][1]["value"].strip()]
        assert conversation.images[0].open("x:1").mode == "RGB"
