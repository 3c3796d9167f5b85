"""The visual abstractor: learned queries turn the patches of an image into a few tokens (paper, 3.1)."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .attention_mplug_owl import attend
from .configuration_mplug_owl import MplugOwlVisualAbstractorConfig

NORM_EPS = 1e-5  # norm1, normk and norm2 keep torch's default in the released code, whatever the config says


class AbstractorMLP(nn.Module):
    """SwiGLU with a LayerNorm inside."""

    def __init__(self, config: MplugOwlVisualAbstractorConfig):
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gated = nn.functional.silu(self.w1(hidden_states)) * self.w3(hidden_states)
        return self.w2(self.ffn_ln(gated))


class AbstractorAttention(nn.Module):
    """Queries read `[queries; image]`: themselves and every patch."""

    def __init__(self, config: MplugOwlVisualAbstractorConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        batch, count, width = queries.shape
        query, key, value = (
            projected.view(batch, -1, self.num_heads, self.head_dim).transpose(1, 2)
            for projected in (self.q_proj(queries), self.k_proj(keys), self.v_proj(keys))
        )
        attended = attend(self, query, key, value, dropout=self.config.attention_probs_dropout_prob)
        return self.out_proj(attended.reshape(batch, count, width))


class AbstractorLayer(nn.Module):
    def __init__(self, config: MplugOwlVisualAbstractorConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.normk = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.attention = AbstractorAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.mlp = AbstractorMLP(config)

    def forward(self, queries: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        queries = self.norm1(queries)
        keys = torch.cat([queries, self.normk(patches)], dim=1)  # [images, queries + patches, width]
        # The residual is the normed queries, not the queries: so it is in the released model.
        queries = queries + self.attention(queries, keys)
        return queries + self.mlp(self.norm2(queries))


class MplugOwlVisualAbstractor(PreTrainedModel):
    """Patches [images, patches, encoder width] -> visual tokens [images, queries + 1, output width].

    The last token is the learned `vit_eos`, appended after the projection to the LLM's width.

    Args:
        config: width, depth and heads.
        num_query_tokens: how many tokens an image becomes, before `vit_eos`.
        output_size: the LLM's hidden size.
    """

    config_class = MplugOwlVisualAbstractorConfig
    config: MplugOwlVisualAbstractorConfig
    main_input_name = "patches"
    supports_gradient_checkpointing = True
    _no_split_modules = ["AbstractorLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Attention goes through `attend`; transformers looks for its interface in this file's text only.
    _can_set_attn_implementation_cached_value = True

    def __init__(self, config: MplugOwlVisualAbstractorConfig, num_query_tokens: int, output_size: int):
        super().__init__(config)
        width = config.hidden_size
        # The released encoder and abstractor are of one width; others meet through a linear layer.
        self.input_proj = (
            nn.Linear(config.encoder_hidden_size, width) if config.encoder_hidden_size != width else None
        )
        self.position_embedding = None
        if config.position_grid is not None:
            rows, columns = config.position_grid
            self.position_embedding = nn.Parameter(torch.empty(1, rows * columns, width))
        self.query_tokens = nn.Parameter(torch.empty(1, num_query_tokens, width))
        self.layers = nn.ModuleList(AbstractorLayer(config) for _ in range(config.num_hidden_layers))
        self.visual_fc = nn.Linear(width, output_size)
        self.vit_eos = nn.Parameter(torch.empty(1, 1, output_size))
        if config.temporal_queries:
            self.temporal_query_tokens = nn.Parameter(torch.empty(1, num_query_tokens, width))
            self.temporal_visual_fc = nn.Linear(width, output_size)
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            for name in ("query_tokens", "temporal_query_tokens", "vit_eos"):
                if hasattr(self, name):
                    init.normal_(getattr(self, name), std=self.config.initializer_range)
            if self.position_embedding is not None:
                init.copy_(self.position_embedding, place_code(self.config, self.config.hidden_size))

    def forward(self, patches: torch.Tensor, is_video: bool = False) -> torch.Tensor:
        """patches: [images, patches, encoder width]; of a video, the patches of all its frames in order."""
        patches = self._place(patches, is_video)
        queries = self.query_tokens
        if is_video and self.config.temporal_queries:
            queries = torch.cat([queries, self.temporal_query_tokens], dim=1)
        queries = queries.to(patches.dtype).expand(patches.shape[0], -1, -1)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                queries = self._gradient_checkpointing_func(layer.__call__, queries, patches)
            else:
                queries = layer(queries, patches)
        count = self.query_tokens.shape[1]
        tokens = self.visual_fc(queries[:, :count])
        if queries.shape[1] > count:
            tokens = tokens + self.temporal_visual_fc(queries[:, count:])
        return torch.cat([tokens, self.vit_eos.to(tokens.dtype).expand(tokens.shape[0], -1, -1)], dim=1)

    def _place(self, patches: torch.Tensor, is_video: bool) -> torch.Tensor:
        """Patches in the abstractor's own width, told their place and frame if the encoder does not tell."""
        if self.input_proj is not None:
            patches = self.input_proj(patches)
        if self.position_embedding is None:
            return patches
        positions = self.position_embedding.shape[1]
        if patches.shape[1] % positions or (patches.shape[1] != positions and not is_video):
            raise ValueError(
                f"{patches.shape[1]} patches but {positions} positions ({self.config.position_grid} grid); "
                "resize the pictures to the size this checkpoint was composed for"
            )
        frames = patches.shape[1] // positions
        places = self.position_embedding.repeat(1, frames, 1)
        if is_video and self.config.tells_frames:
            numbers = frame_code(frames, self.config.hidden_size).to(places.device)
            places = places + numbers.repeat_interleave(positions, dim=1)
        return patches + places.to(patches.dtype)


def frame_code(frames: int, width: int) -> torch.Tensor:
    """A fixed sine-cosine code of each frame's number [1, frames, width], waves of 6 to 600 frames."""
    waves = torch.logspace(0, -2, (width + 1) // 2, dtype=torch.float64)
    angles = torch.arange(frames, dtype=torch.float64)[:, None] * waves[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)[None, :, :width].float()


def place_code(config: MplugOwlVisualAbstractorConfig, width: int) -> torch.Tensor:
    """What the position embedding of a `position_grid` starts from: [1, patches, width]."""
    assert config.position_grid is not None  # only then is there a position embedding
    rows, columns = config.position_grid
    return sine_cosine_grid(rows, columns, width)


def sine_cosine_grid(rows: int, columns: int, width: int) -> torch.Tensor:
    """2-D sine-cosine embedding [1, rows * columns, width]: half of the width tells the row, half the column.

    Where a learned embedding starts: neighbours are alike from the first step
    (Dosovitskiy et al. 2021, D.4 compare).
    """
    frequencies = 1.0 / 10000 ** (torch.arange((width + 3) // 4, dtype=torch.float64) / ((width + 3) // 4))

    def table(count: int) -> torch.Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * frequencies[None]
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row = table(rows)[:, None].expand(rows, columns, -1)
    column = table(columns)[None].expand(rows, columns, -1)
    return torch.cat([row, column], dim=-1)[..., :width].reshape(1, rows * columns, width).float()


__all__ = ["MplugOwlVisualAbstractor"]
