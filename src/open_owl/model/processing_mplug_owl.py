"""Pictures, videos and text -> pixel values and ids with a slot for every visual token."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

# From `transformers` itself the 5.17 class wants torchvision, even for the Pillow backend.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.processing_utils import MultiModalData

from .configuration_mplug_owl import AUTO_MAP, MplugOwlConfig
from .media_mplug_owl import open_pictures, open_videos
from .saving_mplug_owl import copy_model_code, refuse_upload

# Put inside a special token that a user typed, so that it is neither a slot nor a control token; it never
# reaches the tokenizer. A private-use character, so no text of a user's is likely to hold it.
LITERAL_MARK = "\ue000"


class MplugOwlProcessor(ProcessorMixin):
    """Image processor and tokenizer in one; `<image>` and `<|video|>` become `num_image_tokens` slots each.

    Args:
        image_processor: any transformers image processor (the Pillow backend in our checkpoints).
        tokenizer: holds `<image>` and `<|video|>` as single special tokens.
        num_image_tokens: slots of one image or video, `config.num_image_tokens`.
        num_frames: frames picked from a video file.
        squash_frames: resize video frames to the square without cropping, as the released video code does,
            even where pictures are cropped.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | None = None,
        num_image_tokens: int = 65,
        num_frames: int = 8,
        squash_frames: bool = True,
        **kwargs,
    ):
        self.image_token, self.video_token = "<image>", "<|video|>"
        self.num_image_tokens, self.num_frames, self.squash_frames = (
            num_image_tokens,
            num_frames,
            squash_frames,
        )
        self.image_token_id = _single_token(tokenizer, self.image_token)
        self.video_token_id = _single_token(tokenizer, self.video_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.auto_map = {"AutoProcessor": AUTO_MAP["AutoProcessor"], "AutoConfig": AUTO_MAP["AutoConfig"]}

    def __call__(self, images=None, text=None, videos=None, **kwargs) -> BatchFeature:
        """ids and mask, `pixel_values` [images, 3, H, W], `pixel_values_videos` [videos, frames, 3, H, W].

        Args:
            images: one picture or (nested) lists of them: paths, bytes, URLs, PIL images or arrays.
            text: one string or a list; it holds a placeholder for every picture and video.
            videos: a file path, or a list of frames, or a (nested) list of these.

        Raises:
            ValueError: placeholders and media differ in number; a picture cannot be read (`ImageError`).
        """
        texts = [text] if isinstance(text, str) else text
        if isinstance(texts, (list, tuple)):
            self._refuse_other_rows(texts, images)
            if any(isinstance(one, str) and LITERAL_MARK in one for one in texts):
                return self._call_with_literals(texts, images, videos, **kwargs)
        return super().__call__(images=images, text=text, videos=videos, **kwargs)

    def _refuse_other_rows(self, texts: Sequence[str], images) -> None:
        """Pictures given row by row must belong to their rows: equal sums would hide that two rows differ."""
        is_by_row = isinstance(images, (list, tuple)) and all(
            isinstance(one, (list, tuple)) for one in images
        )
        if not is_by_row or len(images) != len(texts):
            return
        for row, (text, given) in enumerate(zip(texts, images, strict=True)):
            wanted = text.count(self.image_token) if isinstance(text, str) else len(given)
            if wanted != len(given):
                raise ValueError(
                    f"row {row} has {len(given)} images but {wanted} {self.image_token} placeholders"
                )

    def _call_with_literals(self, texts: Any, images, videos, **kwargs) -> BatchFeature:
        """As `__call__`, for text that holds special tokens which stand for themselves (see `protect`)."""
        valid: Any = self.valid_processor_kwargs  # typed as an instance, but it is a class
        merged = self._merge_kwargs(valid, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        text_kwargs = merged["text_kwargs"]
        for name in ("return_offsets_mapping", "truncation"):
            if text_kwargs.get(name):
                raise ValueError(
                    f"{name} cannot be had for a text that quotes special tokens such as {self.image_token}; "
                    "leave it out (return_assistant_tokens_mask needs return_offsets_mapping)"
                )
        images, rendered, videos, _ = self.prepare_inputs_layout(images=images, text=texts, videos=videos)
        self.validate_inputs(images=images, text=rendered, videos=videos)
        media = BatchFeature({})
        if images is not None:
            media.update(self._process_images(images, **merged["images_kwargs"])[0])
        if videos is not None:
            media.update(self._process_videos(videos)[0])
        add_special = text_kwargs.get("add_special_tokens", True)
        rows = [self.tokenize_literally(self.expand_media(one), add_special) for one in rendered]
        names = ("padding", "padding_side", "max_length", "pad_to_multiple_of")
        how = {name: text_kwargs[name] for name in names if name in text_kwargs}
        padded = self.tokenizer.pad({"input_ids": rows}, **({"padding": False} | how))
        return BatchFeature({**padded, **media}, tensor_type=text_kwargs.get("return_tensors"))

    def expand_media(self, text: str) -> str:
        """Each placeholder becomes its slots."""
        for token in (self.image_token, self.video_token):
            text = text.replace(token, token * self.num_image_tokens)
        return text

    def protect(self, text: str) -> str:
        """A user's own words: special tokens in them (`<image>`, an end-of-turn) are marked as being text."""
        return re.sub(self._control_pattern(), lambda match: match[0][0] + LITERAL_MARK + match[0][1:], text)

    def tokenize_literally(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """ids of a text in which `protect` has marked special tokens that are only text.

        What lies between two special tokens is tokenised as one text with its marked words, as if the
        tokenizer did not know them.
        """
        if LITERAL_MARK not in text:
            return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = []
        for run, is_marked in self._runs(text):
            run = run.replace(LITERAL_MARK, "")
            ids += self.tokenizer.encode(run, add_special_tokens=False, split_special_tokens=is_marked)
        return self._with_ends(ids) if add_special_tokens else ids

    def _runs(self, text: str) -> Iterator[tuple[str, bool]]:
        """The text cut at the special tokens around marked words; whether a run has such words."""
        unmarked = ""
        for piece in re.split(f"({self._control_pattern()})", text):
            if LITERAL_MARK not in piece:
                unmarked += piece
                continue
            if unmarked:
                yield unmarked, False
            yield piece, True
            unmarked = ""
        if unmarked:
            yield unmarked, False

    def _with_ends(self, ids: list[int]) -> list[int]:
        """With the special tokens that the tokenizer puts before and after every text."""
        middle, whole = self.tokenizer.encode("a", add_special_tokens=False), self.tokenizer.encode("a")
        start = next(i for i in range(len(whole)) if whole[i : i + len(middle)] == middle)
        return [*whole[:start], *ids, *whole[start + len(middle) :]]

    def _control_pattern(self) -> str:
        """A regular expression of every special token, the longest first."""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        tokens = added | {str(token) for token in self.tokenizer.all_special_tokens}
        tokens = {token for token in tokens | {self.image_token, self.video_token} if len(token) > 1}
        return "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))

    def apply_chat_template(
        self, conversation, chat_template: str | None = None, tokenize: bool = False, **kwargs
    ):
        """As in transformers. With `tokenize=True`, special tokens in what anybody said are only text.

        Only where `processor_kwargs` brings pictures are those in a message's plain string placeholders.
        """
        if kwargs.get("return_assistant_tokens_mask") and not hasattr(
            self, "_adjust_assistant_masks_indices"
        ):
            raise ValueError(
                "this transformers misplaces the assistant tokens mask beside pictures; use 5.23"
            )
        if tokenize:
            brought = {**kwargs, **(kwargs.get("processor_kwargs") or {})}
            strings_too = brought.get("images") is None and brought.get("videos") is None
            conversation = self._protect_words(conversation, strings_too)
        return super().apply_chat_template(
            conversation, chat_template=chat_template, tokenize=tokenize, **kwargs
        )

    def _protect_words(self, conversation: Any, strings_too: bool) -> Any:
        conversation = getattr(conversation, "messages", conversation)  # transformers' own Chat
        if conversation and not isinstance(conversation[0], dict):
            return [self._protect_words(one, strings_too) for one in conversation]
        return [self._protect_message(message, strings_too) for message in conversation]

    def _protect_message(self, message: dict, strings_too: bool) -> dict:
        content = message.get("content")
        if isinstance(content, str) and strings_too:
            return {**message, "content": self.protect(content)}
        if content is None or isinstance(content, str):
            return message
        parts = [
            {**part, "text": self.protect(part["text"])} if part.get("type") == "text" else part
            for part in content
        ]
        return {**message, "content": parts}

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Flat lists: texts, upright RGB pictures, and videos as lists of frames."""
        if audio is not None:
            raise ValueError("mPLUG-Owl hears nothing; remove the audio input")
        if isinstance(text, str):
            text = [text]
        texts: Any = None if text is None else list(text)
        pictures, clips = open_pictures(images), open_videos(videos, self.num_frames)
        return pictures or None, texts, clips or None, None

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs
    ) -> None:
        """One placeholder for every picture and video, and not one more."""
        if text is None and images is None and videos is None:
            raise ValueError("nothing to process: give text, images or videos")
        if text is None:
            return
        for index, one in enumerate(text):
            if not isinstance(one, str):
                raise ValueError(f"text {index} is a {type(one).__name__}, not a string")
        for token, media, noun in (
            (self.image_token, images, "images"),
            (self.video_token, videos, "videos"),
        ):
            wanted, given = sum(one.count(token) for one in text), len(media or [])
            if wanted != given:
                raise ValueError(
                    f"{given} {noun} but {wanted} {token} placeholders in the text; add or drop one"
                )

    def _process_videos(self, videos: list[list[Image.Image]], **kwargs):
        size: dict[str, Any] = {}
        if self.squash_frames:
            height, width = self._frame_size()
            size = {"size": {"height": height, "width": width}, "do_center_crop": False}
        frames = [
            torch.as_tensor(np.asarray(self.image_processor(v, **size)["pixel_values"])) for v in videos
        ]
        return {"pixel_values_videos": torch.stack(frames)}, [
            self.replace_video_token({}, i) for i in range(len(videos))
        ]

    def _frame_size(self) -> tuple[int, int]:
        crop = getattr(self.image_processor, "crop_size", None)
        size = crop if crop and self.image_processor.do_center_crop else self.image_processor.size
        edge = size.get("shortest_edge")
        return (edge, edge) if edge else (size["height"], size["width"])

    @property
    def video_processor(self):
        """Frames are pictures: the image processor reads them."""
        return self.image_processor

    def replace_image_token(self, image_inputs: dict | None = None, image_idx: int = 0, **kwargs) -> str:
        return self.image_token * self.num_image_tokens

    def replace_video_token(self, video_inputs: dict | None = None, video_idx: int = 0, **kwargs) -> str:
        return self.video_token * self.num_image_tokens

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
        """What vLLM asks before it plans its memory: every picture has the same number of slots."""
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, "pixel_values", "pixel_values_videos"]

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        """The parts of a saved processor; pixels must not depend on whether torchvision is installed."""
        pinned = {**kwargs, "backend": "pil"}
        image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **pinned)
        tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs)
        return [image_processor, tokenizer]

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> list[str]:
        """As in transformers; the processor's code goes along, so that the folder loads without open_owl.

        Raises:
            ValueError: `push_to_hub=True`; the method of that name does it.
        """
        refuse_upload(kwargs.get("push_to_hub", False))
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if (
            backend is not None
        ):  # it remembers how the last call cut and padded, and would write that as a default
            backend.no_truncation()
            backend.no_padding()
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        copy_model_code(save_directory)
        return saved


def _single_token(tokenizer, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    if token_id is None or token_id == tokenizer.unk_token_id:
        raise ValueError(
            f"the tokenizer has no token {token!r}; add it with "
            "tokenizer.add_tokens([...], special_tokens=True), or use `owl compose` or `owl convert`"
        )
    return token_id


AutoProcessor.register(MplugOwlConfig, MplugOwlProcessor, exist_ok=True)

__all__ = ["MplugOwlProcessor"]
