"""Tiny random encoders and LLMs, saved as folders such as a user would hand to `compose`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

from open_owl.compose import compose
from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor

Owl = tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]

EDGE = 32  # pixels; DINOv2 has patches of 8 too, so each ViT sees 4 x 4 patches
ENCODERS = ("clip", "siglip", "dinov2", "mobilenet_v2")
LLMS = ("llama", "qwen3", "gemma", "mistral", "bloom")

QWEN_LIKE = r"""
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

LLAMA3_LIKE = r"""
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

GEMMA_LIKE = r"""
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

CHAT_TEMPLATES = {"qwen3": QWEN_LIKE, "llama": LLAMA3_LIKE, "gemma": GEMMA_LIKE}


def save_tokenizer(folder: Path, chat_template: str | None = None) -> int:
    """A byte-level tokenizer that can write any text and puts <s> first; its size (259)."""
    specials = ["<s>", "</s>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate([*specials, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template,
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@torch.no_grad()
def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fresh norms are identities and fresh biases zero, behind which mistakes hide: every weight is moved."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def save_encoder(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """An encoder as it is published: CLIP and SigLIP with both towers, MobileNetV2 with its classifier."""
    hf.set_seed(len(name))
    vit = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": EDGE,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    made: dict[str, Callable[[], hf.PreTrainedModel]] = {
        "clip": lambda: hf.CLIPModel(
            hf.CLIPConfig(text_config=text, vision_config=vit | {"intermediate_size": 40}, projection_dim=8)
        ),
        "siglip": lambda: hf.SiglipModel(
            hf.SiglipConfig(text_config=text, vision_config=vit | {"intermediate_size": 40})
        ),
        "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(mlp_ratio=2, **vit)),
        "mobilenet_v2": lambda: hf.MobileNetV2ForImageClassification(
            hf.MobileNetV2Config(
                image_size=EDGE, depth_multiplier=0.1, finegrained_output=False, output_stride=8
            )
        ),
    }
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    cropped = {
        "size": {"shortest_edge": EDGE + 4},
        "crop_size": {"height": EDGE, "width": EDGE},
        **statistics,
    }
    pixels = {
        "clip": lambda: hf.CLIPImageProcessorPil(**cropped),
        "siglip": lambda: hf.SiglipImageProcessorPil(size={"height": EDGE, "width": EDGE}),
        "dinov2": lambda: hf.BitImageProcessorPil(**cropped),
        "mobilenet_v2": lambda: hf.MobileNetV2ImageProcessorPil(**cropped),
    }
    model = shaken(made[name]())
    if name == "mobilenet_v2":
        # Statistics of its own activations: with those of a fresh model the picture fades layer by layer.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.train()(torch.randn(8, 3, EDGE, EDGE))
    model.to(dtype).save_pretrained(folder)
    pixels[name]().save_pretrained(folder)
    return folder


def save_llm(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A causal LM with a tokenizer; of Qwen3 the vocabulary is padded, so that slot ids fall inside it."""
    hf.set_seed(len(name))
    vocabulary = save_tokenizer(folder, CHAT_TEMPLATES.get(name))
    if name == "qwen3":
        vocabulary += 13
    model = shaken(hf.AutoModelForCausalLM.from_config(llm_config(name, vocabulary)))
    model.to(dtype).save_pretrained(folder)
    return folder


def llm_config(name: str, vocabulary: int) -> hf.PreTrainedConfig:
    """Two layers of width 32; each LLM with what is peculiar to its head."""
    peculiar = {
        "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "sliding_window": 8},
        "granite": {"logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
        "cohere": {"logit_scale": 0.0625},
        "bloom": {"n_layer": 2, "n_head": 4},
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": True},
    }
    common = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if name in ("opt", "phi"):
        common.pop("num_key_value_heads")
    if name in ("bloom", "opt"):
        common.pop("head_dim")
    return hf.AutoConfig.for_model(name, **(common | peculiar.get(name, {})))


class Parts:
    """Folders of parts and compositions, made when first asked for; no test may change a shared model."""

    def __init__(self, root: Path):
        self.root = root
        self._owls: dict[tuple[str, str], Owl] = {}

    def encoder(self, name: str) -> Path:
        folder = self.root / "encoders" / name
        return folder if folder.exists() else save_encoder(name, folder)

    def llm(self, name: str) -> Path:
        folder = self.root / "llms" / name
        return folder if folder.exists() else save_llm(name, folder)

    def owl(self, encoder: str, llm: str) -> Owl:
        """Model and processor of a small composition: 4 queries and 2 layers of width 16."""
        if (encoder, llm) not in self._owls:
            self._owls[encoder, llm] = self.fresh_owl(encoder, llm)
        return self._owls[encoder, llm]

    def fresh_owl(self, encoder: str, llm: str, **options: Any) -> Owl:
        """As `owl`, but the caller's own."""
        folders = self.encoder(encoder), self.llm(llm)
        hf.set_seed(0)  # after the parts, which set seeds of their own where they are made now
        sizes = {"num_query_tokens": 4, "num_layers": 2, "width": 16, "num_heads": 2}
        model, processor = compose(*folders, **(sizes | options))
        shaken(model.model.abstractor, seed=1)
        return model, processor


def picture(seed: int, edge: int = EDGE) -> Image.Image:
    """Random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def asked(processor: MplugOwlProcessor, *rows: tuple[str, list[int]]) -> dict[str, torch.Tensor]:
    """A left-padded batch of rows (text, seeds of its pictures)."""
    pictures = [picture(seed) for _, seeds in rows for seed in seeds]
    texts = [text for text, _ in rows]
    return dict(
        processor(text=texts, images=pictures or None, padding=True, padding_side="left", return_tensors="pt")
    )
