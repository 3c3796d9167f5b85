"""What may stand between encoder and LLM: the abstractor, or a plain linear projector in its place."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .abstractor_mplug_owl import MplugOwlVisualAbstractor, place_code
from .configuration_mplug_owl import MplugOwlVisualAbstractorConfig


class MplugOwlLinearProjector(PreTrainedModel):
    """Patches [images, patches, encoder width] -> visual tokens [images, patches + 1, output width].

    Each patch becomes a token by one linear layer, as in LLaVA (arXiv 2304.08485): nothing is summed up, so a
    picture takes as many tokens as the encoder gives patches. Patches of an encoder that tells no places get
    the learned position embedding that the abstractor has, and `vit_eos` comes last, as there.

    Args:
        config: `encoder_hidden_size` and, of a convolutional encoder, `position_grid`.
        num_patches: patches of an image.
        output_size: the LLM's hidden size.
    """

    config_class = MplugOwlVisualAbstractorConfig
    config: MplugOwlVisualAbstractorConfig
    main_input_name = "patches"
    _no_split_modules = ["MplugOwlLinearProjector"]
    # It has no attention, so it has every kind.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MplugOwlVisualAbstractorConfig, num_patches: int, output_size: int):
        super().__init__(config)
        self.num_patches = num_patches
        self.position_embedding = None
        if config.position_grid is not None:
            rows, columns = config.position_grid
            self.position_embedding = nn.Parameter(torch.empty(1, rows * columns, config.encoder_hidden_size))
        self.visual_fc = nn.Linear(config.encoder_hidden_size, output_size)
        self.vit_eos = nn.Parameter(torch.empty(1, 1, output_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.vit_eos, std=self.config.initializer_range)
            if self.position_embedding is not None:
                init.copy_(self.position_embedding, place_code(self.config, self.config.encoder_hidden_size))

    def forward(self, patches: torch.Tensor, is_video: bool = False) -> torch.Tensor:
        """patches: [images, patches, encoder width].

        Raises:
            ValueError: a video; pictures of another size than the checkpoint was composed for.
        """
        if is_video:
            raise ValueError(
                "a linear projector reads no videos: their frames would take a token for every patch; show "
                "frames as pictures, or compose with an abstractor"
            )
        if patches.shape[1] != self.num_patches:
            raise ValueError(
                f"{patches.shape[1]} patches, but this linear projector makes {self.num_patches} tokens; "
                "resize the pictures to the size this checkpoint was composed for"
            )
        if self.position_embedding is not None:
            patches = patches + self.position_embedding.to(patches.dtype)
        tokens = self.visual_fc(patches)
        return torch.cat([tokens, self.vit_eos.to(tokens.dtype).expand(tokens.shape[0], -1, -1)], dim=1)


def build_abstractor(
    config: MplugOwlVisualAbstractorConfig, num_query_tokens: int, output_size: int
) -> MplugOwlVisualAbstractor | MplugOwlLinearProjector:
    """The abstractor that `config.kind` names, without weights."""
    kind = MplugOwlLinearProjector if config.kind == "linear" else MplugOwlVisualAbstractor
    return kind(config, num_query_tokens, output_size)


__all__ = ["MplugOwlLinearProjector"]
