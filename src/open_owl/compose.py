"""Any vision encoder + a fresh abstractor + any causal LM -> one model, one checkpoint folder."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import (
    MODEL_MAPPING,
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .chat_templates import HUMAN_AI, with_media_parts
from .hub import local_directory
from .loading_report import quiet_loading, refuse_mismatch
from .model import (
    MplugOwlConfig,
    MplugOwlForConditionalGeneration,
    MplugOwlProcessor,
    MplugOwlVisualAbstractorConfig,
)
from .model.language_mplug_owl import headless_weight_name
from .model.vision_mplug_owl import has_cls_token, read_patches
from .pixels import open_image_processor
from .tokenizer import open_tokenizer

PAPER_QUERIES, PAPER_WIDTH, PAPER_LAYERS = 64, 1024, 6
FFN_RATIO = 2.75  # 2816 of 1024 in the released abstractor
VISION, ABSTRACTOR, LANGUAGE = "model.vision_model.", "model.abstractor.", "model.language_model."


@dataclass
class Eyes:
    """A vision encoder as the abstractor reads it.

    `probe` [1, 3, height, width] is a made-up picture and `patches` [1, patches, width] what the encoder
    makes of it; `grid` is [rows, columns] of its map if the encoder is convolutional and so tells no places;
    `unloaded` names the weights that its folder lacks.
    """

    tower: PreTrainedModel
    config: PreTrainedConfig
    image_processor: CLIPImageProcessorPil
    final_norm: bool
    probe: torch.Tensor
    patches: torch.Tensor
    grid: list[int] | None
    unloaded: set[str]


def compose(
    vision: str | Path,
    llm: str | Path,
    out: str | Path | None = None,
    *,
    abstractor: Literal["queries", "linear"] = "queries",
    num_query_tokens: int | None = None,
    num_layers: int | None = None,
    width: int | None = None,
    num_heads: int | None = None,
    vision_layer: int = -1,
    keep_cls: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    """Join two pretrained parts by a fresh abstractor.

    Args:
        vision: encoder, a folder or hub id; of a two-tower model (CLIP, SigLIP) the vision tower is taken.
        llm: any causal LM, a folder or hub id.
        out: folder to write the checkpoint to.
        abstractor: `queries`, the paper's, or `linear`: a token for each patch; the sizes below are not its.
        num_query_tokens: visual tokens of an image, less the appended `vit_eos`; default 64, or fewer for an
            encoder of fewer patches.
        num_layers, width, num_heads: the abstractor's size; the defaults are the released 6 layers, width
            1024 and heads of 64, scaled down with the encoder.
        vision_layer: -1 reads the normed last layer; -2 the one below, as LLaVA does; layers above are
            dropped.
        keep_cls: let the abstractor read the CLS token too, as the released model does.
        dtype: of the weights, whatever the parts are stored in.

    Raises:
        FileNotFoundError: a part is not there.
        ValueError: the parts cannot be joined; the message names the reason.
    """
    sizes = {"num_layers": num_layers, "width": width, "num_heads": num_heads}
    _refuse_sizes(abstractor, num_query_tokens=num_query_tokens, **sizes)
    eyes = open_vision(local_directory(vision), vision_layer, dtype)
    causal_lm, tokenizer = open_llm(local_directory(llm), dtype)
    image_token_id, video_token_id = add_media_tokens(tokenizer)
    linear = abstractor == "linear"
    patches = eyes.patches.shape[1] - int(not keep_cls and has_cls_token(eyes.tower))
    config = MplugOwlConfig(
        vision_config=eyes.config,
        text_config=_part_config(causal_lm.config.get_text_config()),
        visual_abstractor_config=linear_config(eyes) if linear else abstractor_config(eyes, **sizes),
        num_query_tokens=patches if linear else num_query_tokens or default_queries(eyes.patches.shape[1]),
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        vision_feature_select_strategy="full" if keep_cls else "default",
        vision_final_norm=eyes.final_norm,
        lm_head_bias=getattr(causal_lm.get_output_embeddings(), "bias", None) is not None,
    )
    model = join(config, eyes, causal_lm, dtype)
    refuse_other_patches(eyes, model)
    refuse_other_logits(causal_lm, model)
    model.generation_config = _generation_config(causal_lm, config)
    processor = MplugOwlProcessor(
        eyes.image_processor,
        tokenizer,
        chat_template=chat_template_for(tokenizer),
        num_image_tokens=config.num_image_tokens,
    )
    if out is not None:
        model.save_pretrained(out)
        processor.save_pretrained(out)
    return model, processor


@torch.no_grad()
def open_vision(directory: Path, layer: int = -1, dtype: torch.dtype = torch.float32) -> Eyes:
    """The encoder of a folder, its layers above `layer` dropped, and what one picture becomes in it."""
    config = AutoConfig.from_pretrained(directory)
    config = getattr(config, "vision_config", config)
    tower, unloaded = _load(AutoModel, directory, dtype, config=config)
    image_processor = open_image_processor(directory)
    height, width = image_processor.size["height"], image_processor.size["width"]
    probe = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    config = _part_config(config)
    if layer == -1:
        patches = read_patches(tower, probe)
    else:
        config = _cut(config, layer, directory)
        patches = tower(pixel_values=probe, output_hidden_states=True).hidden_states[layer]
    last = tower(pixel_values=probe).last_hidden_state
    grid = list(last.shape[-2:]) if last.ndim == 4 else None
    return Eyes(tower, config, image_processor, layer == -1, probe, patches, grid, unloaded)


def open_llm(directory: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM of a folder and its tokenizer.

    Raises:
        ValueError: weights are missing, or there is no head to carry over.
    """
    causal_lm, unloaded = _load(AutoModelForCausalLM, directory, dtype)
    if unloaded:
        raise ValueError(f"{directory} holds no whole causal LM: it lacks {_first(unloaded)}")
    if causal_lm.get_output_embeddings() is None:
        raise ValueError(
            f"{type(causal_lm).__name__} has no output embedding, so its head cannot be carried over"
        )
    return causal_lm, open_tokenizer(directory)


def add_media_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """`<image>` and `<|video|>` as single special tokens; their ids."""
    tokens = [AddedToken(token, normalized=False, special=True) for token in ("<image>", "<|video|>")]
    tokenizer.add_tokens(tokens, special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer.convert_tokens_to_ids(["<image>", "<|video|>"])
    assert isinstance(ids, list)  # of a list of tokens
    return ids[0], ids[1]


def abstractor_config(
    eyes: Eyes, num_layers: int | None, width: int | None, num_heads: int | None
) -> MplugOwlVisualAbstractorConfig:
    """The released abstractor's proportions at the encoder's width.

    Raises:
        ValueError: heads do not divide the width.
    """
    encoder_width = eyes.patches.shape[2]
    width = width or min(encoder_width, PAPER_WIDTH)
    num_heads = num_heads or next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)
    if width % num_heads:
        raise ValueError(f"{num_heads} heads do not divide an abstractor width of {width}")
    return MplugOwlVisualAbstractorConfig(
        encoder_hidden_size=encoder_width,
        hidden_size=width,
        intermediate_size=16 * math.ceil(FFN_RATIO * width / 16),
        num_hidden_layers=num_layers or max(2, min(PAPER_LAYERS, round(PAPER_LAYERS * width / PAPER_WIDTH))),
        num_attention_heads=num_heads,
        initializer_range=_spread(width),
        position_grid=eyes.grid,
        tells_frames=eyes.grid is not None,
    )


def linear_config(eyes: Eyes) -> MplugOwlVisualAbstractorConfig:
    """A linear projector as wide as the encoder."""
    width = eyes.patches.shape[2]
    sizes: Any = {"encoder_hidden_size": width, "initializer_range": _spread(width)}
    return MplugOwlVisualAbstractorConfig(kind="linear", position_grid=eyes.grid, **sizes)


def _spread(width: int) -> float:
    """The released 0.02 at width 1024; a narrower layer needs larger weights for the same activations."""
    return round(0.02 * math.sqrt(PAPER_WIDTH / width), 4)


def default_queries(patches: int) -> int:
    """64 as in the paper; for an encoder of fewer patches the largest power of two that compresses them."""
    return min(PAPER_QUERIES, 2 ** max(2, math.floor(math.log2(patches))))


def join(
    config: MplugOwlConfig, eyes: Eyes, causal_lm: PreTrainedModel, dtype: torch.dtype
) -> MplugOwlForConditionalGeneration:
    """The model with the weights of both parts in place and a fresh abstractor.

    Raises:
        ValueError: AutoModel builds another class than the causal LM's body; a part lacks weights, or has
            weights that find no place.
    """
    body, head = causal_lm.base_model, cast(torch.nn.Module, causal_lm.get_output_embeddings())
    built: Any = MODEL_MAPPING[type(config.text_config)]
    if type(body) is not built:
        raise ValueError(
            f"{type(causal_lm).__name__} is built on {type(body).__name__}, but AutoModel builds "
            f"{built.__name__} from its config; this LLM cannot be composed"
        )
    seen = {name: tensor for name, tensor in eyes.tower.state_dict().items() if name not in eyes.unloaded}
    weights = {f"{VISION}{name}": tensor for name, tensor in seen.items()}
    weights |= {
        f"{LANGUAGE}{headless_weight_name(name)}": tensor for name, tensor in body.state_dict().items()
    }
    weights |= {f"lm_head.{name}": tensor for name, tensor in head.state_dict().items()}
    with quiet_loading():
        model, report = MplugOwlForConditionalGeneration.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    missing = [name for name in report["missing_keys"] if not name.startswith(ABSTRACTOR)]
    # What is left over of the encoder is what the abstractor never reads.
    left_over = [name for name in report["unexpected_keys"] if not name.startswith(VISION)]
    if missing or left_over:
        raise ValueError(f"the parts do not fit: missing {_first(missing)}; left over {_first(left_over)}")
    return model.eval()


@torch.no_grad()
def refuse_other_patches(eyes: Eyes, model: MplugOwlForConditionalGeneration) -> None:
    """The composed encoder must see what the encoder saw: the chosen layer, normed once or not at all.

    Raises:
        ValueError: it does not; its class keeps its layers or its final norm where we do not find them.
    """
    difference = _difference(eyes.patches, read_patches(model.model.vision_model, eyes.probe))
    if difference > _tolerance(model):
        raise ValueError(
            f"{type(eyes.tower).__name__} cannot be cut at the layer asked for: its patches would differ by "
            f"{difference:.2g} from that layer's; use vision_layer -1"
        )


@torch.no_grad()
def refuse_other_logits(causal_lm: PreTrainedModel, model: MplugOwlForConditionalGeneration) -> None:
    """On text alone the composed model must be the LLM: the two heads are compared on random words.

    Raises:
        ValueError: the head does something that is not carried over.
    """
    generator = torch.Generator().manual_seed(0)
    slots = (model.config.image_token_id, model.config.video_token_id)
    limit = min(causal_lm.config.get_text_config().vocab_size, *slots)
    input_ids = torch.randint(0, limit, (1, 16), generator=generator)
    difference = _difference(causal_lm(input_ids=input_ids).logits, model(input_ids=input_ids).logits)
    if difference > _tolerance(model):
        raise ValueError(
            f"the head of {type(causal_lm).__name__} cannot be carried over: its text-only logits differ by "
            f"{difference:.2g} from the composed model's"
        )


def _difference(wanted: torch.Tensor, given: torch.Tensor) -> float:
    """The largest difference; as a share of the largest value where that is above 1."""
    if wanted.shape != given.shape:
        return math.inf
    return ((wanted.float() - given.float()).abs().max() / wanted.float().abs().max().clamp(min=1)).item()


def _tolerance(model: PreTrainedModel) -> float:
    return 1e-4 if model.dtype == torch.float32 else 5e-2


def chat_template_for(tokenizer: PreTrainedTokenizerBase) -> str:
    """The LLM's own template behind a prefix that flattens pictures and text, or the released form."""
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default") or next(iter(own.values()))
    return with_media_parts(own) if own else HUMAN_AI


def _generation_config(causal_lm: PreTrainedModel, config: MplugOwlConfig):
    """The LLM's own; a slot is never an answer, and would have no picture to fill it."""
    generation_config = copy.deepcopy(causal_lm.generation_config)
    slots, limit = (config.image_token_id, config.video_token_id), config.text_config.vocab_size
    reachable = [i for i in slots if i < limit]
    if reachable:
        generation_config.suppress_tokens = reachable
    return generation_config


def _cut(config: PreTrainedConfig, layer: int, directory: Path) -> PreTrainedConfig:
    """The encoder's config without the layers above `layer`."""
    total = getattr(config, "num_hidden_layers", None)
    if total is None:
        raise ValueError(
            f"the encoder of {directory} has no num_hidden_layers; only its last layer can be read"
        )
    if not -total <= layer <= -1:
        raise ValueError(f"vision_layer {layer} of an encoder of {total} layers; use -{total} to -1")
    # Encoders that also serve as backbones (DINOv2) name their layers; the names are derived again.
    named = ("out_features", "out_indices", "stage_names")
    values = {key: value for key, value in config.to_dict().items() if key not in named}
    return type(config).from_dict(values | {"num_hidden_layers": total + 1 + layer})


def _part_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A part is built in the dtype of the whole, not in the one it was stored in, and names no classes."""
    config = copy.deepcopy(config)
    config.dtype = None
    config.num_labels = 2  # the default, which is not written; ImageNet's labels are most of a config.json
    return config


def _load(
    auto_class: Any, directory: Path, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, set[str]]:
    """The model of a folder, and the names of its weights that the folder does not hold.

    Raises:
        ValueError: a stored weight is of another shape than the config says.
    """
    with quiet_loading():
        model, report = auto_class.from_pretrained(
            directory, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    refuse_mismatch(report | {"missing_keys": (), "unexpected_keys": ()}, directory)
    return model.eval(), set(report["missing_keys"])


def _first(names: Iterable[str], count: int = 4) -> str:
    """The first of many names, for an error message."""
    names = sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "nothing") + more


def _refuse_sizes(abstractor: str, **sizes: int | None) -> None:
    if abstractor not in ("queries", "linear"):
        raise ValueError(f"abstractor is {abstractor!r}; use queries or linear")
    for name, value in sizes.items():
        if value is not None and abstractor == "linear":
            raise ValueError(f"a linear projector has no {name}; leave it out")
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
