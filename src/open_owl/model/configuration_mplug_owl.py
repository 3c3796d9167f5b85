"""Configurations of mPLUG-Owl's three parts: any vision encoder, the visual abstractor, any causal LM."""

from typing import Any, Literal

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig


class MplugOwlVisionConfig(PreTrainedConfig):
    """The released ViT (ViT-L/14 by default).

    `temporal` adds, before each layer, the depthwise-in-time block of the released video checkpoint.
    """

    model_type = "mplug_owl_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    temporal: bool = False


class MplugOwlVisualAbstractorConfig(PreTrainedConfig):
    """The learned queries and the cross-attention layers that read an image (paper, section 3.1).

    Args:
        kind: `queries`, the paper's; or `linear`, one linear layer from each patch to a visual token. Of the
            other settings it has `encoder_hidden_size`, `initializer_range` and `position_grid`.
        encoder_hidden_size: width of the vision encoder's patches.
        position_grid: [rows, columns] of the encoder's map, for an encoder that gives no sense of place (a
            convolutional one): a learned 2-D position embedding is then added to the patches. None: none is.
        tells_frames: with a `position_grid`, patches of a video are also told which frame they are of;
            without, the order of the frames cannot be seen.
        temporal_queries: a second set of queries for videos, as the released video checkpoint has.
    """

    model_type = "mplug_owl_visual_abstract"
    base_config_key = "visual_abstractor_config"

    kind: Literal["queries", "linear"] = "queries"
    encoder_hidden_size: int = 1024
    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-6
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    position_grid: list[int] | None = None
    tells_frames: bool = False
    temporal_queries: bool = False


# A folder saved by one of our classes loads where open_owl is not installed. vLLM and SGLang take the first
# `AutoModel...` entry as the headless base, so that one comes first.
AUTO_MAP = {
    "AutoConfig": "configuration_mplug_owl.MplugOwlConfig",
    "AutoModel": "modeling_mplug_owl.MplugOwlModel",
    "AutoModelForImageTextToText": "modeling_mplug_owl.MplugOwlForConditionalGeneration",
    "AutoProcessor": "processing_mplug_owl.MplugOwlProcessor",
}


class MplugOwlConfig(PreTrainedConfig):
    """A foundation LLM, a visual knowledge module and a visual abstractor.

    Args:
        vision_config: any encoder that `AutoModel.from_config` builds, or `MplugOwlVisionConfig`.
        text_config: any decoder that `AutoModel.from_config` builds.
        visual_abstractor_config: the abstractor; the key is the released files' own.
        num_query_tokens: visual tokens an image becomes, before the appended `vit_eos`; of a linear projector
            the number of patches.
        image_token_id, video_token_id: ids of the slots; they may lie beyond the LLM's vocabulary.
        vision_feature_select_strategy: `full` keeps the encoder's CLS token (as the released model does),
            `default` drops it (the LLaVA term).
        vision_final_norm: apply the encoder's last normalisation; off where a layer below the last is read.
        lm_head_bias: the LLM's head has a bias.
    """

    model_type = "mplug-owl"
    sub_configs = {  # pyright: ignore[reportAssignmentType]
        "vision_config": AutoConfig,
        "text_config": AutoConfig,
        "visual_abstractor_config": MplugOwlVisualAbstractorConfig,
    }

    # Given as a dictionary or a config; a config of the part's own class once built.
    vision_config: Any = None
    text_config: Any = None
    visual_abstractor_config: Any = None
    num_query_tokens: int = 64
    image_token_id: int = 32000
    video_token_id: int = 32001
    vision_feature_select_strategy: Literal["default", "full"] = "full"
    vision_final_norm: bool = True
    lm_head_bias: bool = False
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        self.vision_config = _build(self.vision_config, "mplug_owl_vision_model")
        self.text_config = _build(self.text_config, "llama")
        if not isinstance(self.visual_abstractor_config, PreTrainedConfig):
            values = dict(self.visual_abstractor_config or {})
            values.pop("model_type", None)
            self.visual_abstractor_config = MplugOwlVisualAbstractorConfig(**values)
        # Tying belongs to the LLM, and transformers looks for it on the top config.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    @property
    def num_image_tokens(self) -> int:
        """Slots an image (or a video) takes in the text: the queries and `vit_eos`."""
        return self.num_query_tokens + 1


def _build(config: dict[str, Any] | PreTrainedConfig | None, default_type: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    values = dict(config or {})
    model_type = values.pop("model_type", default_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"this transformers knows no model_type {model_type!r}, a part of the model; upgrade it"
        )
    return CONFIG_MAPPING[model_type](**values)


AutoConfig.register("mplug_owl_vision_model", MplugOwlVisionConfig, exist_ok=True)
AutoConfig.register("mplug-owl", MplugOwlConfig, exist_ok=True)

__all__ = ["MplugOwlConfig", "MplugOwlVisionConfig", "MplugOwlVisualAbstractorConfig"]
