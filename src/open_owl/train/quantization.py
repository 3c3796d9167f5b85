"""QLoRA (arXiv 2305.14314): the frozen linear layers of the LLM in 4 bits, dequantised as they run.

The quantised weights are of the run alone. They are made from the checkpoint that the stage starts from, also
when the run resumes, and never saved: what is learned lies on the checkpoint as it was.
"""

import os

import torch
from torch import nn

from open_owl.checkpoint import open_checkpoint
from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.quantized_linear import BLOCK, quantized_linear


def quantize_llm(model: MplugOwlForConditionalGeneration, compute_dtype: torch.dtype) -> None:
    """Puts every linear layer inside the LLM into NF4 with double quantisation; its head stays as it is.

    A layer of n weights takes n / 2 bytes and n / 64 bytes of scales. On a machine with a GPU the layers are
    quantised there, and stay there.

    Args:
        compute_dtype: of the matrix products with the dequantised weights.

    Raises:
        ModuleNotFoundError: bitsandbytes (the extra `quant`) is not installed.
        ValueError: an LLM without linear layers that it can quantise; on a CPU, one whose rows are no whole
            blocks of 64 (bitsandbytes 0.50.2 reads their scales from the wrong places there, without a word).
    """
    language_model = model.model.language_model
    device = _device_of_this_process()
    linear = [name for name, module in language_model.named_modules() if type(module) is nn.Linear]
    if not linear:
        kind = model.config.get_text_config().model_type
        raise ValueError(f"quantize_llm: the LLM ({kind}) has no layers of torch's nn.Linear; leave it out")
    for name in linear:
        layer = language_model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        if device.type == "cpu" and layer.in_features % BLOCK:
            raise ValueError(
                f"quantize_llm: {name} of the LLM has rows of {layer.in_features}, and on a CPU bitsandbytes "
                f"reads only rows of whole blocks of {BLOCK} rightly; leave it out, or train on a GPU"
            )
        quantized = quantized_linear(layer.weight, layer.bias, "nf4", compute_dtype, device)
        language_model.set_submodule(name, quantized.train(layer.training))
    # PEFT puts its layers for quantised weights where the model says that it has some.
    vars(model)["is_loaded_in_4bit"] = True


def without_quantization(
    model: MplugOwlForConditionalGeneration, base: str
) -> MplugOwlForConditionalGeneration:
    """`model`, or, where its LLM is quantised, the checkpoint `base` with what `model` learned."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return model
    whole, _ = open_checkpoint(base)
    learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    whole.load_state_dict(learned, strict=False)
    return whole


def weight_count(parameter: torch.Tensor) -> int:
    """How many weights a parameter stands for; a quantised one holds two in each element."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _device_of_this_process() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
