"""The visual knowledge module: the released ViT, and how the patches of any encoder are read."""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .attention_mplug_owl import attend, build_part
from .configuration_mplug_owl import MplugOwlVisionConfig

# Classes whose last hidden state has not passed their final norm, which they apply to the pooled vector only.
NORM_ON_POOLED_ONLY = {
    "clip_vision_model": "post_layernorm",
    "chinese_clip_vision_model": "post_layernorm",
    "convnext": "layernorm",
    "convnextv2": "layernorm",
}
FINAL_NORMS = ("post_layernorm", "layernorm", "norm")


class VisionAttention(nn.Module):
    """Self-attention with one fused projection, laid out as [head, (q, k, v), dim] in the released files."""

    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = False
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden_states.shape
        mixed = self.query_key_value(hidden_states)
        # [batch, length, heads, 3, dim] -> three of [batch, heads, length, dim]
        mixed = mixed.view(batch, length, self.num_heads, 3, self.head_dim).permute(3, 0, 2, 1, 4)
        attended = attend(self, mixed[0], mixed[1], mixed[2], dropout=self.config.attention_dropout)
        return self.dense(attended.reshape(batch, length, width))


class VisionMLP(nn.Module):
    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class TemporalBlock(nn.Module):
    """Mixes each patch with the same patch of the neighbouring frames (released video code).

    CLS passes the block unchanged, and the layer adds the block's output to its input: so CLS is doubled. The
    released weights are trained that way.
    """

    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__()
        half = config.hidden_size // 2
        self.ln = nn.LayerNorm(
            config.hidden_size, eps=1e-5
        )  # not layer_norm_eps: so it is in the released code
        self.down_proj = nn.Conv3d(config.hidden_size, half, kernel_size=1)
        self.conv = nn.Conv3d(half, half, kernel_size=(3, 1, 1), padding=(1, 0, 0), groups=half)
        self.activation = ACT2FN["quick_gelu"]
        self.up_proj = nn.Conv3d(half, config.hidden_size, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        patches = self.ln(hidden_states[:, 1:])  # [videos * frames, patches, width]
        images, count, width = patches.shape
        volume = (
            patches.view(images // num_frames, num_frames, count, width).permute(0, 3, 1, 2).unsqueeze(-1)
        )
        volume = self.up_proj(self.activation(self.conv(self.down_proj(volume))))
        mixed = volume.squeeze(-1).permute(0, 2, 3, 1).reshape(images, count, width)
        return hidden_states + torch.cat([hidden_states[:, :1], mixed], dim=1)


class VisionLayer(GradientCheckpointingLayer):
    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__()
        self.temporal = TemporalBlock(config) if config.temporal else None
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, hidden_states: torch.Tensor, num_frames: int) -> torch.Tensor:
        if self.temporal is not None and num_frames > 1:
            hidden_states = self.temporal(hidden_states, num_frames)
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states))
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class VisionEmbeddings(nn.Module):
    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__()
        num_patches = (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, num_patches + 1, config.hidden_size))
        self.patch_embed = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype)).flatten(2).transpose(1, 2)
        hidden_states = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        if hidden_states.shape[1] != self.position_embedding.shape[1]:
            raise ValueError(
                f"pictures of {tuple(pixel_values.shape[-2:])} pixels give {hidden_states.shape[1]} patches, "
                f"but the vision model has {self.position_embedding.shape[1]} positions; "
                "resize to its image_size"
            )
        return self.pre_layernorm(hidden_states + self.position_embedding)


class MplugOwlVisionModel(PreTrainedModel):
    """The released ViT: CLS token, LayerNorm before the encoder, pre-norm layers, LayerNorm after them."""

    config_class = MplugOwlVisionConfig
    config: MplugOwlVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # pyright: ignore[reportAssignmentType]
    supports_gradient_checkpointing = True
    _no_split_modules = ["VisionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _input_embed_layer = "patch_embed"
    # Attention goes through `attend`; transformers looks for its interface in this file's text only.
    _can_set_attn_implementation_cached_value = True

    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__(config)
        self.embeddings = VisionEmbeddings(config)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisionEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
            init.normal_(module.position_embedding, std=self.config.initializer_range)

    def forward(
        self, pixel_values: torch.Tensor, num_frames: int = 1, return_dict: bool | None = True
    ) -> BaseModelOutputWithPooling:
        """pixel_values: [images, 3, height, width]; with `num_frames` > 1 a video's follow each other."""
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, num_frames)
        hidden_states = self.post_layernorm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


def build_vision_model(config: PreTrainedConfig, final_norm: bool = True) -> PreTrainedModel:
    """Any encoder from its config, without the heads that the abstractor never reads.

    What no visual token depends on would get no gradient, which stalls distributed training, and would be
    saved and loaded for nothing.
    """
    if config.model_type in ("siglip_vision_model", "siglip2_vision_model"):
        config.vision_use_head = False  # the pooling head; transformers 5.17 has it on without a setting
    if getattr(config, "use_mask_token", False):
        config.use_mask_token = False  # DINOv2's pretraining mask
    vision_model = build_part(config)
    pooler = getattr(vision_model, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        setattr(vision_model, "pooler", None)  # noqa: B010 (nn.Module is typed as if it held no None)
    if not final_norm:
        setattr(vision_model, _final_norm_name(vision_model), nn.Identity())
    return vision_model


def read_patches(
    vision_model: PreTrainedModel, pixel_values: torch.Tensor, num_frames: int = 1
) -> torch.Tensor:
    """Every patch of every image, normed: [images, patches, width], CLS first where the encoder has one."""
    # By its config, not its class: PEFT wraps an encoder that learns whole beside LoRA.
    is_ours = vision_model.config.model_type == MplugOwlVisionConfig.model_type
    extra = {"num_frames": num_frames} if is_ours else {}
    hidden_states = vision_model(pixel_values=pixel_values, return_dict=True, **extra).last_hidden_state
    if hidden_states.ndim == 4:  # a convolutional map [images, channels, rows, columns]
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    norm = NORM_ON_POOLED_ONLY.get(vision_model.config.model_type)
    return hidden_states if norm is None else getattr(vision_model, norm)(hidden_states)


def has_cls_token(vision_model: PreTrainedModel) -> bool:
    """Whether the first patch is a CLS token, told by the parameter that holds it."""
    names = ("cls_token", "class_embedding")
    return any(name.rpartition(".")[2] in names for name, _ in vision_model.named_parameters())


def _final_norm_name(vision_model: PreTrainedModel) -> str:
    for name in FINAL_NORMS:
        if isinstance(getattr(vision_model, name, None), nn.Module):
            return name
    raise ValueError(
        f"{type(vision_model).__name__} has no final norm under {', '.join(FINAL_NORMS)}, "
        "so a layer below the last cannot be read; use the last layer"
    )


AutoModel.register(MplugOwlVisionConfig, MplugOwlVisionModel, exist_ok=True)

__all__ = ["MplugOwlVisionModel"]
