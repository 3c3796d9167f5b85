"""Any vision encoder + a fresh abstractor + any causal LM -> one model, one checkpoint folder."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .chat_templates import HUMAN_AI, with_media_parts
from .hub import local_directory
from .model import (
    MplugOwlConfig,
    MplugOwlForConditionalGeneration,
    MplugOwlProcessor,
    MplugOwlVisualAbstractorConfig,
)
from .model.language_mplug_owl import headless_weight_name
from .model.vision_mplug_owl import build_vision_model, has_cls_token, read_patches
from .tokenizer import open_tokenizer

PAPER_QUERIES, PAPER_WIDTH, PAPER_LAYERS = 64, 1024, 6
FFN_RATIO = 2.75  # 2816 of 1024 in the released abstractor


@dataclass
class Eyes:
    """A vision encoder as the abstractor reads it: `patches` of `width`, in a `grid` if it tells no places."""

    tower: PreTrainedModel
    config: PreTrainedConfig
    image_processor: CLIPImageProcessorPil
    final_norm: bool
    patches: int
    width: int
    grid: list[int] | None


def compose(
    vision: str | Path,
    llm: str | Path,
    out: str | Path | None = None,
    *,
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
        num_query_tokens: visual tokens of an image, less the appended `vit_eos`; default 64, or fewer for an
            encoder of fewer patches.
        num_layers, width, num_heads: the abstractor's size; the defaults are the released 6 layers, width 1024 and
            heads of 64, scaled down with the encoder.
        vision_layer: -1 reads the normed last layer; -2 the one below, as LLaVA does; layers above are dropped.
        keep_cls: let the abstractor read the CLS token too, as the released model does.
        dtype: of the stored weights.

    Raises:
        FileNotFoundError: a part is not there.
        ValueError: the parts cannot be joined; the message names the reason.
    """
    eyes = open_vision(local_directory(vision), vision_layer, dtype)
    causal_lm, tokenizer = open_llm(local_directory(llm), dtype)
    image_token_id, video_token_id = add_media_tokens(tokenizer)
    config = MplugOwlConfig(
        vision_config=eyes.config,
        text_config=_part_config(causal_lm.config.get_text_config()),
        visual_abstractor_config=abstractor_config(eyes, num_layers, width, num_heads),
        num_query_tokens=num_query_tokens or default_queries(eyes.patches),
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        vision_feature_select_strategy="full" if keep_cls else "default",
        vision_final_norm=eyes.final_norm,
        lm_head_bias=getattr(causal_lm.get_output_embeddings(), "bias", None) is not None,
    )
    model = MplugOwlForConditionalGeneration(config).to(dtype)
    carry_vision(eyes, model)
    carry_llm(causal_lm, model)
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
    return model.eval(), processor


def open_vision(directory: Path, layer: int = -1, dtype: torch.dtype = torch.float32) -> Eyes:
    """The encoder of a folder, its layers above `layer` dropped, and what one picture becomes in it."""
    config = AutoConfig.from_pretrained(directory)
    config = getattr(config, "vision_config", config)
    tower = AutoModel.from_pretrained(directory, config=config, dtype=dtype).eval()
    config = _part_config(config)
    if layer != -1:
        config.num_hidden_layers = _layers_kept(config, layer, directory)
    image_processor = open_image_processor(directory)
    edge = image_processor.size["height"]
    with torch.no_grad():
        hidden = tower(pixel_values=torch.zeros(1, 3, edge, edge, dtype=dtype)).last_hidden_state
        patches = read_patches(tower, torch.zeros(1, 3, edge, edge, dtype=dtype))
    grid = list(hidden.shape[-2:]) if hidden.ndim == 4 else None
    return Eyes(tower, config, image_processor, layer == -1, patches.shape[1], patches.shape[2], grid)


def open_image_processor(directory: Path) -> CLIPImageProcessorPil:
    """The encoder's own pixel statistics, with pictures squashed to its square so that nothing is cropped away.

    Raises:
        ValueError: the folder does not say how its encoder wants pixels.
    """
    if not any((directory / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ValueError(f"{directory} has no preprocessor_config.json, so its pixel scale is unknown; add one")
    own = AutoImageProcessor.from_pretrained(directory, backend="pil")
    size = own.crop_size if getattr(own, "do_center_crop", False) and own.crop_size else own.size
    edge = size.get("height") or size.get("shortest_edge")
    return CLIPImageProcessorPil(
        size={"height": edge, "width": edge},
        do_center_crop=False,
        resample=own.resample,
        do_rescale=own.do_rescale,
        rescale_factor=own.rescale_factor,
        do_normalize=own.do_normalize,
        image_mean=own.image_mean,
        image_std=own.image_std,
    )


def open_llm(directory: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM of a folder and its tokenizer.

    Raises:
        ValueError: the model has no head to carry over.
    """
    causal_lm = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    if causal_lm.get_output_embeddings() is None:
        raise ValueError(f"{type(causal_lm).__name__} has no output embedding, so its head cannot be carried over")
    return causal_lm, open_tokenizer(directory)


def add_media_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """`<image>` and `<|video|>` as single special tokens; their ids."""
    tokens = [AddedToken(token, normalized=False, special=True) for token in ("<image>", "<|video|>")]
    tokenizer.add_tokens(tokens, special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    image_token_id, video_token_id = tokenizer.convert_tokens_to_ids(["<image>", "<|video|>"])
    return image_token_id, video_token_id


def abstractor_config(
    eyes: Eyes, num_layers: int | None, width: int | None, num_heads: int | None
) -> MplugOwlVisualAbstractorConfig:
    """The released abstractor's proportions at the encoder's width.

    Raises:
        ValueError: heads do not divide the width.
    """
    width = width or min(eyes.width, PAPER_WIDTH)
    num_heads = num_heads or next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)
    if width % num_heads:
        raise ValueError(f"{num_heads} heads do not divide an abstractor width of {width}")
    return MplugOwlVisualAbstractorConfig(
        encoder_hidden_size=eyes.width,
        hidden_size=width,
        intermediate_size=16 * math.ceil(FFN_RATIO * width / 16),
        num_hidden_layers=num_layers or max(2, min(PAPER_LAYERS, round(PAPER_LAYERS * width / PAPER_WIDTH))),
        num_attention_heads=num_heads,
        # The released 0.02 at width 1024; a narrower layer needs larger weights for the same activations.
        initializer_range=round(0.02 * math.sqrt(PAPER_WIDTH / width), 4),
        position_grid=eyes.grid,
    )


def default_queries(patches: int) -> int:
    """64 as in the paper; for an encoder of fewer patches the largest power of two that compresses them."""
    return min(PAPER_QUERIES, 2 ** max(2, math.floor(math.log2(patches))))


def carry_vision(eyes: Eyes, model: MplugOwlForConditionalGeneration) -> None:
    """Put the tower's weights in; what the abstractor never reads has no place there."""
    stored = {name: tensor for name, tensor in eyes.tower.state_dict().items()}
    result = model.model.vision_model.load_state_dict(stored, strict=False)
    if result.missing_keys:
        raise ValueError(f"the vision encoder lacks weights {result.missing_keys[:8]} that its config calls for")


def carry_llm(causal_lm: PreTrainedModel, model: MplugOwlForConditionalGeneration) -> None:
    """Put the LLM's weights and head in.

    Raises:
        ValueError: AutoModel builds another class than the causal LM's body.
    """
    body = causal_lm.base_model
    if type(body) is not type(model.model.language_model):
        raise ValueError(
            f"{type(causal_lm).__name__} is built on {type(body).__name__}, but AutoModel builds "
            f"{type(model.model.language_model).__name__}; this LLM cannot be composed"
        )
    weights = {headless_weight_name(name): tensor for name, tensor in body.state_dict().items()}
    model.model.language_model.load_state_dict(weights, strict=True)
    model.lm_head.load_state_dict(causal_lm.get_output_embeddings().state_dict(), strict=True)
    model.tie_weights()


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
    wanted = causal_lm(input_ids=input_ids).logits.float()
    given = model.eval()(input_ids=input_ids).logits.float()
    tolerance = 1e-4 if wanted.dtype == next(model.parameters()).dtype else 5e-2
    difference = (wanted - given).abs().max().item()
    if difference > tolerance * max(1.0, wanted.abs().max().item()):
        raise ValueError(
            f"the head of {type(causal_lm).__name__} cannot be carried over: its text-only logits differ by "
            f"{difference:.2g} from the composed model's"
        )


def chat_template_for(tokenizer: PreTrainedTokenizerBase) -> str:
    """The LLM's own template behind a prefix that flattens pictures and text, or the released form."""
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default") or next(iter(own.values()))
    return with_media_parts(own) if own else HUMAN_AI


def _generation_config(causal_lm: PreTrainedModel, config: MplugOwlConfig):
    """The LLM's own; a slot is never an answer, and would have no picture to fill it."""
    generation_config = copy.deepcopy(causal_lm.generation_config)
    reachable = [i for i in (config.image_token_id, config.video_token_id) if i < config.text_config.vocab_size]
    if reachable:
        generation_config.suppress_tokens = reachable
    return generation_config


def _layers_kept(config: PreTrainedConfig, layer: int, directory: Path) -> int:
    total = getattr(config, "num_hidden_layers", None)
    if total is None:
        raise ValueError(f"the encoder of {directory} has no num_hidden_layers, so only its last layer can be read")
    kept = total + 1 + layer if layer < 0 else layer
    if not 1 <= kept <= total:
        raise ValueError(f"vision_layer {layer} of an encoder of {total} layers; use -{total} to -1")
    return kept


def _part_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A part is built in the dtype of the whole, not in the one it was stored in, and names no classes."""
    config = copy.deepcopy(config)
    config.dtype = None
    config.num_labels = 2  # transformers' default, which is not written; ImageNet's labels are most of a config.json
    return config
