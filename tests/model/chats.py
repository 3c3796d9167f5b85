"""Messages, and what a processor makes of them, in a form that one can read."""

from PIL import Image

from open_owl.model import MplugOwlProcessor

SLOTS = 5  # 4 queries and vit_eos


def picture(colour: str = "red", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)


def words(processor: MplugOwlProcessor, ids) -> str:
    """The text of ids, each run of slots written as one placeholder."""
    text = processor.tokenizer.decode(ids)
    for token in (processor.image_token, processor.video_token):
        text = text.replace(token * SLOTS, f"[{token}]")
    return text


def user(*parts) -> dict:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def chat_ids(processor: MplugOwlProcessor, messages: list[dict], **kwargs):
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )
