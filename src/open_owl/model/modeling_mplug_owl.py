"""mPLUG-Owl: pixels -> vision model -> abstractor -> slots in the text -> LLM -> words (arXiv 2304.14178)."""

import os
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    Cache,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput, can_return_tuple

from .attention_mplug_owl import supported_attention
from .configuration_mplug_owl import MplugOwlConfig
from .generation_mplug_owl import WordsOnly, repeat_media, words_only
from .language_mplug_owl import build_language_model, embedding_name, shape_logits
from .loss_mplug_owl import losses_of, losses_through, mean_over
from .projector_mplug_owl import build_abstractor
from .saving_mplug_owl import copy_model_code, refuse_upload
from .vision_mplug_owl import build_vision_model, has_cls_token, read_patches


@dataclass
class MplugOwlModelOutputWithPast(BaseModelOutputWithPast):
    """`image_hidden_states`: visual tokens [images, queries + 1, hidden] that were put into the text."""

    image_hidden_states: torch.Tensor | None = None


@dataclass
class MplugOwlCausalLMOutputWithPast(ModelOutput):
    """What `forward` gives.

    logits: [batch, length, vocabulary]; in training with labels [supervised tokens, vocabulary], and None
        where the head is frozen: they are then never all there.
    token_losses: with labels, the cross entropy of each [supervised tokens], row after row, without gradient.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None


class MplugOwlPreTrainedModel(PreTrainedModel):
    config_class = MplugOwlConfig
    config: MplugOwlConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")  # pyright: ignore[reportAssignmentType]
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As in transformers; the model's own code goes along, so that the folder loads without open_owl.

        Raises:
            ValueError: `push_to_hub=True`; the method of that name does it.
        """
        refuse_upload(kwargs.get("push_to_hub", False))
        super().save_pretrained(save_directory, *args, **kwargs)
        copy_model_code(save_directory)

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs) -> None:
        """As in transformers; a part that cannot (Bloom, convolutions) runs eager, said in one line."""
        if isinstance(attn_implementation, str):
            parts = {
                name: supported_attention(getattr(self.config, name), attn_implementation)
                for name in ("vision_config", "text_config")
            }
            attn_implementation = {
                "": attn_implementation,
                "visual_abstractor_config": attn_implementation,
                **parts,
            }
        super().set_attn_implementation(attn_implementation, *args, **kwargs)


class MplugOwlModel(MplugOwlPreTrainedModel):
    """The three parts without the LLM's head."""

    def __init__(self, config: MplugOwlConfig):
        super().__init__(config)
        self.vision_model = build_vision_model(config.vision_config, config.vision_final_norm)
        self.language_model = build_language_model(config.text_config)
        width = cast(nn.Embedding, self.language_model.get_input_embeddings()).embedding_dim
        self.abstractor = build_abstractor(config.visual_abstractor_config, config.num_query_tokens, width)
        self.drop_cls_token = config.vision_feature_select_strategy == "default" and has_cls_token(
            self.vision_model
        )
        self.post_init()

    def train(self, mode: bool = True) -> "MplugOwlModel":
        """Batch norms of the vision model keep their pretrained statistics: they are never re-estimated."""
        super().train(mode)
        for module in self.vision_model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Visual tokens of images.

        pixel_values [images, channels, height, width] -> `pooler_output` [images, queries + 1, hidden],
        `last_hidden_state` [images, patches, width].
        """
        patches = self.read_patches(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=patches, pooler_output=self.abstractor(patches))

    def get_video_features(self, pixel_values_videos: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Visual tokens of videos; the abstractor reads the patches of all frames at once.

        pixel_values_videos [videos, frames, channels, height, width] ->
        `pooler_output` [videos, queries + 1, hidden]
        """
        videos, frames = pixel_values_videos.shape[:2]
        patches = self.read_patches(pixel_values_videos.flatten(0, 1), num_frames=frames)
        patches = patches.reshape(videos, frames * patches.shape[1], patches.shape[2])
        return BaseModelOutputWithPooling(
            last_hidden_state=patches, pooler_output=self.abstractor(patches, is_video=True)
        )

    def read_patches(self, pixel_values: torch.Tensor, num_frames: int = 1) -> torch.Tensor:
        """What the abstractor reads: [images, channels, height, width] -> [images, patches, width]."""
        patches = read_patches(self.vision_model, pixel_values.to(self.dtype), num_frames)
        return patches[:, 1:] if self.drop_cls_token else patches

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_patches: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        unshown: tuple[str, ...] = (),
        **kwargs,
    ) -> MplugOwlModelOutputWithPast:
        """input_ids [batch, length], its slots filled in order by the images and videos of the whole batch.

        Args:
            image_patches: in place of pixel_values, what `read_patches` made of them before (a cache).
            unshown: "image", "video": kinds of which those given have no slot. They are looked at and change
                nothing: in distributed training every process runs the same parts, whatever its rows hold.

        Raises:
            ValueError: slots and visual tokens differ in number; neither / both of ids and embeddings are
                given, or both of pixel_values and image_patches.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if pixel_values is not None and image_patches is not None:
            raise ValueError("give images as pixel_values or as image_patches, not as both")
        visual_tokens = None
        if input_ids is not None:
            inputs_embeds, visual_tokens = self._embed(
                input_ids, pixel_values, pixel_values_videos, image_patches, unshown
            )
        elif any(given is not None for given in (pixel_values, pixel_values_videos, image_patches)):
            raise ValueError(
                "pictures find their slots in input_ids; give input_ids, not inputs_embeds, with them"
            )
        if (
            position_ids is None
            and past_key_values is None
            and attention_mask is not None
            and attention_mask.ndim == 2
        ):
            # Left padding must not shift the positions of the text.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return MplugOwlModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=visual_tokens,
        )

    def _embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        pixel_values_videos: torch.Tensor | None,
        image_patches: torch.Tensor | None = None,
        unshown: tuple[str, ...] = (),
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings [batch, length, hidden] with the slots filled, and the images' visual tokens."""
        image_slots = input_ids == self.config.image_token_id
        video_slots = input_ids == self.config.video_token_id
        # Slot ids may lie beyond the vocabulary, so they are never looked up.
        words = self.get_input_embeddings()(input_ids.masked_fill(image_slots | video_slots, 0))
        images = videos = None
        if pixel_values is not None:
            images = self.get_image_features(pixel_values).pooler_output
        elif image_patches is not None:
            images = self.abstractor(image_patches)
        if pixel_values_videos is not None:
            videos = self.get_video_features(pixel_values_videos).pooler_output
        if images is not None and "image" in unshown:
            words, images = words + 0.0 * images.sum().to(words.dtype), None
        if videos is not None and "video" in unshown:
            words, videos = words + 0.0 * videos.sum().to(words.dtype), None
        if images is not None or videos is not None or input_ids.shape[1] > 1:
            words = self._fill(words, image_slots, images, "image")
            words = self._fill(words, video_slots, videos, "video")
        return words, images

    def _fill(
        self, words: torch.Tensor, slots: torch.Tensor, features: torch.Tensor | None, kind: str
    ) -> torch.Tensor:
        """words [batch, length, hidden] with `slots` [batch, length] replaced, in order, by features."""
        wanted = int(slots.sum())
        given = 0 if features is None else features.shape[0] * features.shape[1]
        if wanted != given:
            count = 0 if features is None else features.shape[0]
            raise ValueError(
                f"{wanted} {kind} slots in input_ids but {count} {kind}s of "
                f"{self.config.num_image_tokens} visual tokens ({given} in all); "
                f"each <{kind}> placeholder stands for one {kind}"
            )
        if features is None:
            return words
        return words.masked_scatter(slots.unsqueeze(-1), features.to(words.dtype))


class MplugOwlForConditionalGeneration(MplugOwlPreTrainedModel, GenerationMixin):
    """mPLUG-Owl with the LLM's head."""

    def __init__(self, config: MplugOwlConfig):
        super().__init__(config)
        self.model = MplugOwlModel(config)
        embedding = cast(nn.Embedding, self.model.get_input_embeddings())
        vocab_size = config.text_config.vocab_size
        self.lm_head = nn.Linear(embedding.embedding_dim, vocab_size, bias=config.lm_head_bias)
        name = embedding_name(self.model.language_model)
        self._tied_weights_keys = {"lm_head.weight": f"model.language_model.{name}.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        return self.model.get_image_features(pixel_values, **kwargs)

    def get_video_features(self, pixel_values_videos: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        return self.model.get_video_features(pixel_values_videos, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_patches: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> MplugOwlCausalLMOutputWithPast:
        """Logits, and the loss where `labels` are given.

        Args:
            labels: [batch, length], -100 where unsupervised; shifted here. Loss is the summed cross entropy
                of the supervised tokens over `num_items_in_batch`, or over their own number.
            logits_to_keep: the head runs on the last so many positions only (0: on all), or on these
                positions.

        In training with labels the head runs on supervised positions only: for a 32,000-word vocabulary the
        logits of every position would be most of the step's memory.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_patches=image_patches,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden_states, loss, token_losses = outputs.last_hidden_state, None, None
        if labels is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self._head(hidden_states[:, kept])
        else:
            loss, token_losses, logits = self._loss(hidden_states, labels, num_items_in_batch)
        return MplugOwlCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            token_losses=token_losses,
        )

    def _loss(
        self, hidden_states: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The loss, each supervised token's, and logits as far as they were all there at once."""
        # A slot is never an answer, and its id may lie beyond the vocabulary.
        slots = (labels == self.config.image_token_id) | (labels == self.config.video_token_id)
        targets = labels.masked_fill(slots, -100)[:, 1:]
        supervised = targets != -100
        targets = targets[supervised]
        logits = None if self.training else self._head(hidden_states)
        if self.training and not any(weight.requires_grad for weight in self.lm_head.parameters()):
            total, losses = losses_through(self._head, hidden_states[:, :-1][supervised], targets)
        else:
            if logits is None:
                logits = chosen = self._head(hidden_states[:, :-1][supervised])
            else:
                chosen = logits[:, :-1][supervised]
            losses = losses_of(chosen, targets)
            total = losses.sum()
        return mean_over(total, len(targets), num_items_in_batch), losses.detach(), logits

    def _head(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return shape_logits(self.lm_head(hidden_states), self.config.text_config)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs,
    ) -> tuple[torch.Tensor | None, dict]:
        """Beams and several answers: pictures are repeated with their row, not one by one."""
        slots = {
            **dict.fromkeys(("pixel_values", "image_patches"), self.config.image_token_id),
            "pixel_values_videos": self.config.video_token_id,
        }
        media = {name: model_kwargs.pop(name, None) for name in slots}
        expanded, model_kwargs = super()._expand_inputs_for_generation(  # pyright: ignore
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        for name, pixels in media.items():
            if pixels is not None and expand_size > 1 and input_ids is not None:
                slots_per_row = (input_ids == slots[name]).sum(-1)
                pixels = repeat_media(pixels, slots_per_row, self.config.num_image_tokens, expand_size)
            if pixels is not None:
                model_kwargs[name] = pixels
        return expanded, model_kwargs

    def _get_logits_processor(self, *args, **kwargs) -> LogitsProcessorList:
        slot_ids = (self.config.image_token_id, self.config.video_token_id)
        prompt = kwargs.get("encoder_input_ids")
        if prompt is not None and not prompt.is_floating_point():
            kwargs["encoder_input_ids"] = words_only(prompt, slot_ids)
        processors = super()._get_logits_processor(*args, **kwargs)  # pyright: ignore
        return WordsOnly(processors, slot_ids)


AutoModel.register(MplugOwlConfig, MplugOwlModel, exist_ok=True)
AutoModelForImageTextToText.register(MplugOwlConfig, MplugOwlForConditionalGeneration, exist_ok=True)

__all__ = ["MplugOwlForConditionalGeneration", "MplugOwlModel", "MplugOwlPreTrainedModel"]
