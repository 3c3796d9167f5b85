"""The released checkpoints (`MAGAer13/mplug-owl-*`) in today's classes: names, shapes, tokenizer."""

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AddedToken, CLIPImageProcessorPil, GenerationConfig, PreTrainedTokenizerFast

from .chat_templates import HUMAN_AI
from .hub import local_directory
from .loading_report import refuse_mismatch
from .model import MplugOwlConfig, MplugOwlForConditionalGeneration, MplugOwlProcessor
from .model.language_mplug_owl import headless_weight_name
from .sentencepiece_bpe import tokenizer_from_sentencepiece
from .tokenizer import begin_with_bos

OLD_LAYER = r"^abstractor\.encoder\.layers\.(\d+)\.crossattention\."
OUR_LAYER = r"model.abstractor.layers.\1."

# Old name -> ours, tried in order; the first that matches is used.
RENAMES = (
    (r"^(temporal_)?query_tokens$", r"model.abstractor.\1query_tokens"),
    (r"^vision_model\.encoder\.layers\.", "model.vision_model.layers."),
    (r"^vision_model\.", "model.vision_model."),
    (OLD_LAYER + r"attention\.query\.", OUR_LAYER + "attention.q_proj."),
    (OLD_LAYER + r"attention\.key\.", OUR_LAYER + "attention.k_proj."),
    (OLD_LAYER + r"attention\.value\.", OUR_LAYER + "attention.v_proj."),
    (OLD_LAYER + r"output\.out_proj\.", OUR_LAYER + "attention.out_proj."),
    (OLD_LAYER + r"(?:output\.)?", OUR_LAYER),
    (r"^abstractor\.", "model.abstractor."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.(?:model|transformer)\.", "model.language_model."),
)
# Tables that old code saved and new code computes.
COMPUTED = re.compile(r"rotary_emb\.inv_freq$|\.position_ids$|\.masked_bias$")


def model_type(directory: Path) -> str | None:
    """What kind of model a folder holds, by its config.

    Raises:
        FileNotFoundError: the folder has no config.json.
    """
    if not (directory / "config.json").exists():
        raise FileNotFoundError(
            f"{directory} has no config.json, so it is no checkpoint; `owl compose` makes one"
        )
    return _read_json(directory / "config.json").get("model_type")


def is_released(directory: Path) -> bool:
    """Whether a folder holds a checkpoint of the released code: ours have the slots' ids in their config."""
    is_owl = model_type(directory) == MplugOwlConfig.model_type
    return is_owl and "image_token_id" not in _read_json(directory / "config.json")


def load_released_model(
    directory: Path, dtype: torch.dtype | None = None
) -> MplugOwlForConditionalGeneration:
    """The weights of a released folder in our classes.

    Raises:
        ValueError: weights are missing, or there are some that the config does not call for; each is named.
        FileNotFoundError: no weight file.
    """
    weights = {}
    for name, tensor in _stored_weights(directory):
        if not COMPUTED.search(name):
            weights[our_name(name)] = tensor
    config = released_config(_read_json(directory / "config.json"), weights)
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    dtype = dtype or next(iter(weights.values())).dtype
    model, report = MplugOwlForConditionalGeneration.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        None,
        config=config,
        state_dict=weights,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    refuse_mismatch(report, directory)
    if (directory / "generation_config.json").exists():
        stored = GenerationConfig.from_pretrained(directory)
        # The released sampling settings stay with the released scripts: greedy is the default here.
        ids = {name: getattr(stored, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**ids)
    return model.eval()


def open_released(
    directory: Path, dtype: torch.dtype | None = None, tokenizer_directory: Path | None = None
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    """Model and processor; see `load_released_model` and `load_released_processor`."""
    processor = load_released_processor(directory, tokenizer_directory)
    model = load_released_model(directory, dtype)
    # Bloom's vocabulary is padded beyond its tokenizer's, so that slots lie inside it and could be said.
    slots = [processor.image_token_id, processor.video_token_id]
    model.config.image_token_id, model.config.video_token_id = slots
    if min(slots) < model.config.text_config.vocab_size:
        model.generation_config.suppress_tokens = slots
    return model, processor


def convert(source: str | Path, out: str | Path, tokenizer: str | Path | None = None) -> None:
    """Write a released checkpoint (folder or hub id) as an OpenOwl checkpoint into the folder `out`.

    Args:
        tokenizer: folder or hub id to take the tokenizer from, for a source that has none.

    Raises:
        ValueError: `source` is not a released mPLUG-Owl checkpoint, or config and weights do not agree.
        FileNotFoundError: `source` or its weights or tokenizer are not there.
    """
    directory = local_directory(source)
    if not is_released(directory):
        raise ValueError(
            f"{source} is not a released mPLUG-Owl checkpoint; open_owl.load opens OpenOwl ones as they are"
        )
    tokenizer_directory = local_directory(tokenizer) if tokenizer else None
    model, processor = open_released(directory, tokenizer_directory=tokenizer_directory)
    model.save_pretrained(out)
    processor.save_pretrained(out)


def load_released_processor(directory: Path, tokenizer_directory: Path | None = None) -> MplugOwlProcessor:
    """Tokenizer, picture sizes and the released prompt form.

    The image checkpoints squash a picture to the square; the video checkpoint crops pictures and squashes
    frames.

    Args:
        tokenizer_directory: where the tokenizer lies, if not in `directory` itself.

    Raises:
        FileNotFoundError: there is neither a `tokenizer.model` nor a `tokenizer.json`.
        ValueError: the tokenizer has more tokens than the LLM, so it is another model's.
    """
    tokenizer = _released_tokenizer(tokenizer_directory or directory)
    config = _read_json(directory / "config.json")
    _refuse_larger(tokenizer, config["text_config"]["vocab_size"], tokenizer_directory or directory)
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken(t, normalized=False, special=True) for t in ("<image>", "<|video|>")
            ]
        }
    )
    stored = _read_json(directory / "preprocessor_config.json")
    edge = config["vision_config"]["image_size"]
    is_video = any(name == "temporal_query_tokens" for name in _stored_names(directory))
    size: dict[str, Any] = {"size": {"height": edge, "width": edge}, "do_center_crop": False}
    if is_video:
        size = {
            "size": {"shortest_edge": edge},
            "do_center_crop": True,
            "crop_size": {"height": edge, "width": edge},
        }
    image_processor = CLIPImageProcessorPil(
        **size, resample=3, image_mean=stored["image_mean"], image_std=stored["image_std"]
    )
    return MplugOwlProcessor(
        image_processor,
        tokenizer,
        chat_template=HUMAN_AI,
        num_image_tokens=config.get("num_query_tokens", 64) + 1,
        squash_frames=True,
    )


def released_config(stored: dict[str, Any], weights: dict[str, torch.Tensor]) -> MplugOwlConfig:
    """Our config from a released one; what that code derives (the FFN's width) is read off the weights."""
    vision = _known(stored["vision_config"])
    vision.update(model_type="mplug_owl_vision_model")
    vision["temporal"] = any(".temporal." in name for name in weights)
    abstractor = _known(stored["visual_abstractor_config"])
    abstractor["intermediate_size"] = weights["model.abstractor.layers.0.mlp.w1.weight"].shape[0]
    abstractor["temporal_queries"] = "model.abstractor.temporal_query_tokens" in weights
    text = {key: value for key, value in stored["text_config"].items() if value is not None}
    text.pop("torch_dtype", None)
    vocabulary = text["vocab_size"]
    return MplugOwlConfig(
        vision_config=vision,
        visual_abstractor_config=abstractor,
        text_config=text,
        num_query_tokens=stored.get("num_query_tokens", 64),
        image_token_id=vocabulary,
        video_token_id=vocabulary + 1,
    )


def our_name(name: str) -> str:
    """A released weight's name in our model.

    Raises:
        ValueError: no part of the released model has such a weight.
    """
    for pattern, replacement in RENAMES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return headless_weight_name(renamed)
    raise ValueError(
        f"weight {name!r} belongs to no part of a released mPLUG-Owl; is this another model's file?"
    )


def _released_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """By the files, not by `tokenizer_class`, which names classes that exist in the released code only."""
    if (directory / "tokenizer.model").exists():
        return tokenizer_from_sentencepiece(directory / "tokenizer.model")
    if (directory / "tokenizer.json").exists():
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), **special)
        begin_with_bos(tokenizer)
        return tokenizer
    raise FileNotFoundError(
        f"{directory} has no tokenizer.model and no tokenizer.json; put that of its LLM there (for a Bloom "
        "the tokenizer.json of bigscience/bloomz-7b1), or name where it lies: owl convert --tokenizer"
    )


def _refuse_larger(tokenizer: PreTrainedTokenizerFast, vocabulary: int, directory: Path) -> None:
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"the tokenizer of {directory} has {len(tokenizer)} tokens, but the LLM knows {vocabulary}; "
            "it is another model's"
        )


def _known(stored: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
        "patch_size", "hidden_act", "layer_norm_eps", "encoder_hidden_size", "initializer_range",
    )  # fmt: skip
    return {key: stored[key] for key in keys if key in stored}


def _weight_files(directory: Path) -> list[Path]:
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if (directory / f"{stem}.{suffix}").exists():
            return [directory / f"{stem}.{suffix}"]
        index = directory / f"{stem}.{suffix}.index.json"
        if index.exists():
            return [directory / file for file in sorted(set(_read_json(index)["weight_map"].values()))]
    raise FileNotFoundError(
        f"{directory} holds no weights: no model.safetensors, pytorch_model.bin or index of shards"
    )


def _stored_weights(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in _weight_files(directory):
        yield from _file_weights(file).items()


def _file_weights(file: Path) -> dict[str, torch.Tensor]:
    with _readable(file):
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(file))


def _stored_names(directory: Path) -> list[str]:
    """The weights' names; of safetensors only the header is read, not the gigabytes behind it."""
    names: list[str] = []
    for file in _weight_files(directory):
        if file.suffix != ".safetensors":
            names += _file_weights(file)
            continue
        with _readable(file), safe_open(file, framework="pt") as opened:
            names += opened.keys()
    return names


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """A weight file that is missing, damaged or holds code is refused by its name."""
    if not file.exists():
        raise FileNotFoundError(f"{file} is named in the index of shards but is not there; download it again")
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: it is damaged, or holds more than weights, whose loading would run its code"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} cannot be read as weights; download it again ({error})") from error


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
