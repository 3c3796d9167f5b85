"""The released checkpoints against the answers of the released code (`shared/released`, random weights)."""

import json
import pickle
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from open_owl.checkpoint import open_checkpoint
from open_owl.released import convert, load_released_model, load_released_processor, our_name

CASES = [
    ("llama-tiny", "one_image"),
    ("llama-tiny", "two_images"),
    ("llama-tiny", "multi_turn"),
    ("llama-tiny", "text_only"),
    ("video-tiny", "one_image"),
    ("video-tiny", "text_only"),
    ("video-tiny", "one_video"),
    ("bloom-tiny", "one_image"),
    ("bloom-tiny", "text_only"),
]
WITH_TOKENIZER = [case for case in CASES if case[0] != "bloom-tiny"]


@pytest.fixture(scope="module")
def released(shared: Path) -> Path:
    return shared / "released"


@pytest.fixture(scope="module")
def models(released: Path):
    """Each released folder's model, read once."""
    return cache(lambda folder: load_released_model(released / folder))


@pytest.fixture(scope="module")
def processors(released: Path):
    return cache(lambda folder: load_released_processor(released / folder))


@pytest.fixture(scope="module")
def converted(released: Path, tmp_path_factory: pytest.TempPathFactory):
    """Model and processor out of what `owl convert` writes."""

    def convert_and_open(folder: str):
        out = tmp_path_factory.mktemp("converted") / folder
        convert(released / folder, out)
        return open_checkpoint(out)

    return cache(convert_and_open)


def golden(released: Path, folder: str, case: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """The case's prompt and pictures, and what the released code answered."""
    cases = {one["name"]: one for one in json.loads((released / folder / "cases.json").read_text())}
    answers = load_file(released / folder / "expected.safetensors")
    own = [name for name in answers if name.startswith(f"{case}.")]
    return cases[case], {name.removeprefix(f"{case}."): answers[name] for name in own}


def pictures_of(case: dict, shared: Path) -> list[Path]:
    return [shared / "data" / "owleval" / "cases" / name for name in case.get("images", [])]


def made_up_frames(count: int, seed: int = 0) -> list[Image.Image]:
    pixels = torch.randint(0, 256, (count, 30, 44, 3), generator=torch.Generator().manual_seed(seed))
    return [Image.fromarray(frame.byte().numpy()) for frame in pixels]


def model_inputs(model, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The released ids (-1 and -2 at slots) and pixels as our model takes them."""
    ids = expected["input_ids"].clone()
    ids[ids == -1] = model.config.image_token_id
    ids[ids == -2] = model.config.video_token_id
    inputs = {"input_ids": ids[None]}
    if "pixel_values" in expected:
        inputs["pixel_values"] = expected["pixel_values"]
    if "video_pixel_values" in expected:  # [videos, channels, frames, height, width] in the released code
        inputs["pixel_values_videos"] = expected["video_pixel_values"].transpose(1, 2)
    return inputs


def assert_answers_as_released(model, expected: dict[str, torch.Tensor]) -> None:
    inputs = model_inputs(model, expected)
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    wanted = expected["logits"]
    torch.testing.assert_close(logits[-len(wanted) :], wanted, atol=1e-4, rtol=0)
    if "logits_checksum" in expected:  # a sum of 32,000 logits, each within 1e-4
        torch.testing.assert_close(logits.abs().sum(-1), expected["logits_checksum"], atol=0.05, rtol=0)
    generated = model.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == expected["generated"][1:].tolist()


@pytest.mark.parametrize(("folder", "case"), CASES)
def test_logits_and_greedy_tokens_are_those_of_the_released_code(models, released, folder, case):
    assert_answers_as_released(models(folder), golden(released, folder, case)[1])


@pytest.mark.parametrize(("folder", "case"), WITH_TOKENIZER)
def test_logits_and_greedy_tokens_survive_conversion(converted, released, folder, case):
    assert_answers_as_released(converted(folder)[0], golden(released, folder, case)[1])


@pytest.mark.parametrize("is_converted", [False, True], ids=["as released", "converted"])
@pytest.mark.parametrize(("folder", "case"), WITH_TOKENIZER)
def test_ids_and_pixels_of_a_prompt_are_those_of_the_released_code(
    processors, converted, released, shared, folder, case, is_converted
):
    processor = converted(folder)[1] if is_converted else processors(folder)
    asked, expected = golden(released, folder, case)
    frames = [made_up_frames(asked["frames"])] if "frames" in asked else None
    images = pictures_of(asked, shared) or None
    inputs = processor(text=asked["prompt"], images=images, videos=frames, return_tensors="pt")

    ids = inputs["input_ids"][0]
    ids[ids == processor.image_token_id] = -1
    ids[ids == processor.video_token_id] = -2
    assert ids.tolist() == expected["input_ids"].tolist()
    if "pixel_values" in expected:
        torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"], atol=1e-5, rtol=0)
    if frames:
        assert inputs["pixel_values_videos"].shape == (1, 8, 3, 56, 56)


def test_a_frame_of_a_video_is_squashed_where_a_picture_is_cropped(processors):
    processor = processors("video-tiny")
    stripes = Image.new("RGB", (200, 50), "black")
    stripes.paste("white", (0, 0, 20, 50))  # at the left edge, which a crop to the square cuts off
    picture = processor(text="<image>", images=[stripes], return_tensors="pt")["pixel_values"][0]
    video = processor(text="<|video|>", videos=[[stripes] * 8], return_tensors="pt")
    frames = video["pixel_values_videos"][0]
    assert picture.max() < 0
    assert frames.shape == (8, 3, 56, 56)
    assert frames[:, :, :, 0].min() > 1


@pytest.mark.parametrize(
    ("folder", "keyword"), [("llama-tiny", "images"), ("video-tiny", "images"), ("video-tiny", "videos")]
)
def test_two_pictures_or_videos_in_one_conversation_each_get_their_own_features(
    models, processors, folder, keyword
):
    model, processor = models(folder), processors(folder)
    media = [made_up_frames(8, seed=seed) for seed in (1, 2)]
    token, name, features = "<|video|>", "pixel_values_videos", model.get_video_features
    if keyword == "images":
        media = [frames[0] for frames in media]
        token, name, features = "<image>", "pixel_values", model.get_image_features
    both = processor(text=f"{token} or {token}?", **{keyword: media}, return_tensors="pt")
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**both)
        alone = [
            features(processor(text=token, **{keyword: [one]}, return_tensors="pt")[name]).pooler_output[0]
            for one in media
        ]
    hook.remove()
    slots = both["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids(token)
    torch.testing.assert_close(seen[0][0, slots], torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_one_frame_of_a_video_is_a_picture_to_the_released_vit(models):
    """The temporal block is skipped for a single frame."""
    vision = models("video-tiny").model.vision_model
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert vision(pixels, num_frames=1).last_hidden_state.shape == (2, 17, 64)
        assert not torch.equal(
            vision(pixels, num_frames=2).last_hidden_state, vision(pixels, num_frames=1).last_hidden_state
        )


@pytest.fixture
def copied(released: Path, tmp_path: Path):
    """A released folder that a test may change."""

    def copy(folder: str) -> Path:
        target = tmp_path / folder
        shutil.copytree(released / folder, target, copy_function=shutil.copyfile)
        return target

    return copy


def stored_weights(directory: Path) -> dict[str, torch.Tensor]:
    return torch.load(directory / "pytorch_model.bin", weights_only=True)


def write_in_shards(directory: Path, kind: str) -> None:
    """Replace the single file by three shards and their index, or by safetensors."""
    weights = stored_weights(directory)
    (directory / "pytorch_model.bin").unlink()
    stem, suffix = ("model", "safetensors") if "safetensors" in kind else ("pytorch_model", "bin")
    count = 3 if "shards" in kind else 1
    index = {}
    for shard in range(count):
        file = f"{stem}-{shard + 1:05}-of-{count:05}.{suffix}" if count > 1 else f"{stem}.{suffix}"
        part = {name: weights[name].clone() for name in sorted(weights)[shard::count]}
        if suffix == "safetensors":
            save_file(part, directory / file)
        else:
            torch.save(part, directory / file, _use_new_zipfile_serialization=kind != "old shards")
        index |= dict.fromkeys(part, file)
    if count > 1:
        content = json.dumps({"metadata": {}, "weight_map": index})
        (directory / f"{stem}.{suffix}.index.json").write_text(content)


@pytest.mark.parametrize("kind", ["shards", "old shards", "safetensors", "shards of safetensors"])
def test_weights_in_shards_or_safetensors_load_as_the_single_file_does(models, copied, kind):
    folder = copied("video-tiny")
    write_in_shards(folder, kind)
    model, processor = open_checkpoint(folder)
    wanted = models("video-tiny").state_dict()
    assert model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert processor.image_processor.do_center_crop  # known as the video checkpoint by its weights


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "MplugOwlTokenizer", None])
def test_the_tokenizer_loads_whatever_class_its_folder_names(copied, released, tokenizer_class):
    folder = copied("llama-tiny")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = tokenizer_class
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _, processor = open_checkpoint(folder)
    asked, expected = golden(released, "llama-tiny", "text_only")
    assert processor(text=asked["prompt"])["input_ids"][0] == expected["input_ids"].tolist()


def test_text_between_media_tokens_is_tokenised_on_its_own(processors):
    """As sentencepiece splits each piece alone, each with the space it puts first."""
    processor = processors("llama-tiny")
    picture = Image.new("RGB", (9, 9))
    ids = processor(text="Human: <image> and<image>", images=[picture, picture])["input_ids"][0]
    ids = [i for i in ids if i != processor.image_token_id]
    pieces = [processor.tokenizer.encode(piece, add_special_tokens=False) for piece in ("Human: ", " and")]
    assert ids == [processor.tokenizer.bos_token_id, *pieces[0], *pieces[1]]


def test_the_chat_template_writes_the_released_prompt(released, processors):
    processor = processors("llama-tiny")
    asked, _ = golden(released, "llama-tiny", "multi_turn")
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        {"role": "user", "content": [{"type": "text", "text": "And this?"}, {"type": "image"}]},
    ]
    written = processor.apply_chat_template(messages, add_generation_prompt=True)
    # The template closes an earlier answer, as training did; the released prompt of the golden file did not.
    assert written.replace("A cup.</s>", "A cup.") == "<s>" + asked["prompt"]


def test_a_folder_without_a_tokenizer_is_refused_with_what_to_add(released):
    with pytest.raises(FileNotFoundError, match=r"bloom-tiny has no tokenizer\.model.*--tokenizer"):
        open_checkpoint(released / "bloom-tiny")


def bloom_tokenizer(folder: Path, size: int = 300) -> Path:
    """A byte-level tokenizer.json like Bloom's, without a post-processor that puts <s> first."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    names = ["<unk>", "<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"<{i}>" for i in range(size - len(names))]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(names[:4])
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_a_source_without_a_tokenizer_is_converted_with_one_that_is_named(released, tmp_path):
    convert(released / "bloom-tiny", tmp_path / "owl", tokenizer=bloom_tokenizer(tmp_path / "tokenizer"))
    model, processor = open_checkpoint(tmp_path / "owl")
    assert_answers_as_released(model, golden(released, "bloom-tiny", "one_image")[1])
    inputs = processor(text="<image>hi", images=[Image.new("RGB", (9, 9))], return_tensors="pt")
    slots = [model.config.image_token_id] * model.config.num_image_tokens
    # The LLM's 500 ids are padded beyond the tokenizer's 300, so the slots lie among them.
    assert processor.image_token_id == model.config.image_token_id == 300
    assert model.generation_config.suppress_tokens == [300, 301]
    assert inputs["input_ids"][0, :-2].tolist() == [1, *slots]


def test_a_tokenizer_of_another_model_is_refused(released, tmp_path):
    with pytest.raises(ValueError, match="has 600 tokens, but the LLM knows 500"):
        load_released_processor(released / "bloom-tiny", bloom_tokenizer(tmp_path / "tokenizer", size=600))


def test_weights_that_the_config_does_not_call_for_are_refused_by_name(copied):
    folder = copied("llama-tiny")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    config["visual_abstractor_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not agree") as refusal:
        load_released_model(folder)
    assert "missing model.abstractor.layers.2." in str(refusal.value)

    config["visual_abstractor_config"]["num_hidden_layers"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unexpected model\.language_model\.layers\.1\."):
        load_released_model(folder)


def test_weights_of_another_shape_are_refused_by_name_and_with_both_shapes(copied):
    folder = copied("llama-tiny")
    config = json.loads((folder / "config.json").read_text())
    config["num_query_tokens"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"query_tokens is \(1, 8, 64\) in the file but \(1, 5, 64\) by the config"
    ):
        load_released_model(folder)


def test_a_weight_of_no_part_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'transformer\.h\.0\.attn'"):
        our_name("transformer.h.0.attn")


def test_a_pickle_that_holds_code_is_refused_and_not_run(copied):
    folder = copied("llama-tiny")
    witness = folder / "witness"

    class Payload:
        def __reduce__(self):
            return Path.touch, (witness,)

    for write in (pickle.dump, lambda thing, file: torch.save({"query_tokens": thing}, file)):
        with (folder / "pytorch_model.bin").open("wb") as file:
            write(Payload(), file)
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused"):
            load_released_model(folder)
        assert not witness.exists()


def test_damaged_and_missing_weight_files_are_told_by_name(copied):
    folder = copied("llama-tiny")
    write_in_shards(folder, "shards of safetensors")
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors cannot be read"):
        load_released_model(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors is named in the index"):
        load_released_model(folder)
    for file in folder.glob("model*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load_released_model(folder)
