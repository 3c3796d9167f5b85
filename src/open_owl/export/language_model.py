"""The owl's language model alone, as the stock class of its kind with a tokenizer of text only."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GenerationConfig, PreTrainedModel

from open_owl.compose import refuse_other_logits
from open_owl.export.text_tokenizer import save_text_tokenizer
from open_owl.loading_report import quiet_loading
from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor
from open_owl.model.language_mplug_owl import stock_weight_name

LANGUAGE, HEAD = "model.language_model.", "lm_head."


def save_language_model(
    model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor, out: Path
) -> None:
    """Writes a folder that `AutoModelForCausalLM` loads; its text logits are the owl's.

    Raises:
        ValueError: the LLM has no stock causal class, or its logits there are others; the tokenizer does not
            fit the LLM's vocabulary.
    """
    causal_lm = language_model_alone(model)
    refuse_other_logits(causal_lm, model)
    rows = causal_lm.get_input_embeddings().weight.shape[0]  # pyright: ignore
    save_text_tokenizer(processor, int(rows), out)  # first, because it may refuse
    causal_lm.save_pretrained(out)
    _write_older_rope_keys(out / "config.json")


def language_model_alone(model: MplugOwlForConditionalGeneration) -> PreTrainedModel:
    """The stock causal LM with the weights of the owl's language model and head."""
    config = copy.deepcopy(model.config.get_text_config())
    stock: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if stock is None:
        raise ValueError(f"transformers has no causal LM class for {config.model_type}")
    with torch.device("meta"):
        empty = stock(config)  # only its names are wanted
    names = {id(module): name for name, module in empty.named_modules()}
    body, head = names[id(empty.base_model)], names[id(empty.get_output_embeddings())]
    weights = {}
    for name, weight in model.state_dict().items():
        if name.startswith(LANGUAGE):
            weights[f"{body}.{stock_weight_name(name.removeprefix(LANGUAGE))}"] = weight
        elif name.startswith(HEAD):
            weights[f"{head}.{name.removeprefix(HEAD)}"] = weight
    with quiet_loading():
        causal_lm, report = stock.from_pretrained(
            None, config=config, state_dict=weights, dtype=model.dtype, output_loading_info=True
        )
    astray = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if astray:
        raise ValueError(f"{stock.__name__} has other weights than the owl's LLM: {', '.join(astray[:4])}")
    causal_lm.generation_config = _generation_config(model)
    return causal_lm.eval()


def _generation_config(model: MplugOwlForConditionalGeneration) -> GenerationConfig:
    """The owl's, where slots are never generated; here there are none."""
    assert model.generation_config is not None
    config = copy.deepcopy(model.generation_config)
    slots = {model.config.image_token_id, model.config.video_token_id}
    suppressed = [token for token in config.suppress_tokens or [] if token not in slots]
    config.suppress_tokens = suppressed or None
    return config


def _write_older_rope_keys(file: Path) -> None:
    """`rope_theta` and `rope_scaling` beside `rope_parameters`, which transformers 4 does not know.

    It would read a Llama 3 at the default base of 10,000 without a word.
    """
    config = json.loads(file.read_text(encoding="utf-8"))
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" not in rope:  # none, or one for each kind of layer
        return
    config["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
