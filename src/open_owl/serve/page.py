"""The chat page (Gradio): pictures and videos in, answers as they are made, where the abstractor looked."""

import html
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from anyio import to_thread
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from gradio.components import Component

from open_owl.generate import Owl
from open_owl.generate.sampling import DEFAULT_NEW_TOKENS, Sampling

from .media import MediaReader
from .page_pictures import HOW_TO_READ, looked_at, make_examples
from .page_style import CSS, JS, theme
from .page_talk import (
    History,
    ask,
    check_files,
    is_file,
    last_pictures,
    open_file,
    problem,
    read_history,
    shown_file,
    uploaded,
)

PATH = "/demo"
HOUR, DAY = 3600, 86400
MAPS_KEPT = 64

READY: dict[str, Any] = {"interactive": True, "submit_btn": True, "stop_btn": False}
BUSY: dict[str, Any] = {"interactive": False, "submit_btn": False, "stop_btn": True}


def mount_page(app: FastAPI, owl: Owl, name: str, media: MediaReader, seconds: float = 300) -> FastAPI:
    """Adds the page to an application at /demo, and leads there from / where nothing else is.

    Args:
        name: of the model, as the page shows it.
        media: opens what is uploaded; whoever made it closes it.
        seconds: after which an answer is cut.
    """
    if not any(getattr(route, "path", None) == "/" for route in app.routes):
        app.add_api_route("/", lambda: RedirectResponse(f"{PATH}/"), include_in_schema=False)
    return gr.mount_gradio_app(
        app,
        build_page(owl, name, media, seconds),
        PATH,
        theme=theme(),
        css=CSS,
        js=JS,
        footer_links=[],
        run_history=False,
        show_error=False,  # what the user can put right is a gr.Error, which is shown all the same
        ssr_mode=False,
        mcp_server=False,
    )


def build_page(owl: Owl, name: str, media: MediaReader, seconds: float) -> gr.Blocks:
    """The page; its uploads are deleted after a day."""
    examples = make_examples()
    with gr.Blocks(
        title=f"{name} - OpenOwl", analytics_enabled=False, fill_height=True, delete_cache=(HOUR, DAY)
    ) as page:
        gr.HTML(_head(owl, name), elem_id="head")
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                chatbot = _chatbot(examples)
                speed = gr.HTML(elem_id="speed")
                textbox = _textbox()
            with gr.Column(scale=1, min_width=260):
                with gr.Accordion("Where the abstractor looked", open=True):
                    looked = gr.HTML(HOW_TO_READ, elem_id="looked")
                with gr.Accordion("Sampling", open=False):
                    settings = _settings()
        _wire(Turns(owl, examples, media, seconds), chatbot, textbox, speed, looked, settings)
    return page


class Conversation(gr.Chatbot):
    """Takes no file but those uploaded to this page.

    In a page that is mounted, not launched, Gradio (6.31) would copy any file of this machine that a browser
    names, or fetch one from a URL, before a handler sees it.
    """

    is_template = True  # in the browser it is a Chatbot

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return None if url_or_file_path is None else uploaded(str(url_or_file_path))


class Question(gr.MultimodalTextbox):
    """Takes uploads only, as `Conversation`."""

    is_template = True

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return None if url_or_file_path is None else uploaded(str(url_or_file_path))


class Turns:
    """What happens at each turn; every method is the handler of an event of the page.

    A history comes from the browser, so each handler reads it by `read_history` first.
    """

    def __init__(self, owl: Owl, examples: list[dict[str, Any]], media: MediaReader, seconds: float = 300):
        self.owl = owl
        self.examples = examples
        self.media, self.seconds = media, seconds
        self._maps: OrderedDict[str, str] = OrderedDict()

    async def take(self, typed: dict[str, Any], history: History):
        """What was typed and dropped becomes part of the conversation, if all of it can be opened."""
        files = [shown_file(path) for path in typed.get("files") or []]
        asked = read_history(history)
        await check_files(self.owl.engine, self.media, asked, files)
        text = (typed.get("text") or "").strip()
        if not files and not text:
            raise problem("Write a question first.")
        said = [{"role": "user", "content": text}] if text else []
        return [*asked, *files, *said], gr.update(value=None, **BUSY)

    async def take_example(self, chosen: gr.SelectData):
        """An example by its number; the rest of what the browser says of it is not needed."""
        example = self.examples[int(chosen.index)]
        return await self.take(example, [])

    def take_again(self, history: History):
        """Without the last answer, so that it is made anew."""
        return _without_last_answer(read_history(history)), gr.update(**BUSY)

    def take_edited(self, history: History, edited: gr.EditData):
        """A question of before in new words; what came after it is forgotten."""
        place = edited.index[0] if isinstance(edited.index, list | tuple) else edited.index
        kept = read_history(history)[: place + 1]
        if not kept or is_file(kept[-1]) or not str(edited.value).strip():
            raise problem("An edited question needs words.")
        kept[-1] = {**kept[-1], "content": str(edited.value).strip()}
        return kept, gr.update(**BUSY)

    def undo(self, history: History):
        """The last question goes back to where it was typed."""
        kept = _without_last_answer(read_history(history))
        text, files = "", []
        while kept and kept[-1]["role"] == "user":
            message = kept.pop()
            if is_file(message):
                files.insert(0, message["content"]["path"])
            elif text:  # an earlier question, which was answered by nothing
                kept.append(message)
                break
            else:
                text = message["content"]
        return kept, gr.update(value={"text": text, "files": files}, **READY)

    async def answer(self, history: History, *settings: Any) -> AsyncGenerator[tuple[Any, Any, Any]]:
        """History, speed and heat maps, again with every piece of the answer."""
        asked = read_history(history)
        text = ""
        asking = ask(self.owl, self.media, asked, _sampling(*settings), self.seconds)
        async with aclosing(asking) as answer:
            async for text, speed in answer:
                said = [{"role": "assistant", "content": text}] if text else []
                yield [*asked, *said], _paragraph(speed), gr.skip()
        if not text:
            gr.Info("The model said nothing.")
        maps = "".join([await self._map(path) for path in last_pictures(asked)])
        yield gr.skip(), gr.skip(), HOW_TO_READ + maps

    async def _map(self, path: str) -> str:
        """HTML of where the abstractor looked in an upload; the last ones are kept."""
        if path not in self._maps:
            async with self.media.opening():
                image = (await open_file(path, self.media))["image"]
                self._maps[path] = await to_thread.run_sync(looked_at, self.owl, image, Path(path).name)
        found = self._maps[path]
        self._maps.move_to_end(path)
        if len(self._maps) > MAPS_KEPT:
            self._maps.popitem(last=False)
        return found


def _without_last_answer(history: History) -> History:
    while history and history[-1]["role"] == "assistant":
        history = history[:-1]
    return history


def _wire(turns: Turns, chatbot, textbox, speed, looked, settings) -> None:
    """Each way to ask takes the question, answers, and gives the text box back."""
    taken, silent = [chatbot, textbox], {"show_progress": "hidden", "api_visibility": "private"}
    asked = [
        textbox.submit(turns.take, [textbox, chatbot], taken, show_progress="hidden", api_name="take"),
        chatbot.example_select(turns.take_example, None, taken, **silent),
        chatbot.retry(turns.take_again, chatbot, taken, **silent),
        chatbot.edit(turns.take_edited, chatbot, taken, **silent),
    ]
    answering = []
    for event, visibility in zip(asked, ("public", "private", "private", "private"), strict=True):
        answered = event.success(
            turns.answer,
            [chatbot, *settings],
            [chatbot, speed, looked],
            concurrency_limit=None,  # the engine has a queue of its own
            show_progress_on=speed,
            api_name="answer" if visibility == "public" else None,
            api_visibility=visibility,
        )
        answered.then(_ready, None, textbox, **silent)
        answering.append(answered)
    textbox.stop(None, None, None, cancels=answering, api_visibility="private")
    chatbot.undo(turns.undo, chatbot, taken, **silent)
    chatbot.clear(None, None, None, cancels=answering, api_visibility="private")
    chatbot.clear(lambda: ("", HOW_TO_READ), None, [speed, looked], **silent)


def _ready() -> dict[str, Any]:
    return gr.update(**READY)


def _chatbot(examples: list[dict[str, Any]]) -> Conversation:
    # Gradio puts what it knows of the files in their place.
    shown: list[Any] = [{**example, "files": list(example["files"])} for example in examples]
    return Conversation(
        label="Conversation",
        show_label=False,
        elem_id="chat",
        height="min(62vh, 40rem)",
        min_height=320,
        editable="user",
        buttons=["copy", "copy_all"],
        # With several messages in a bubble Gradio cannot edit one that has a picture beside it.
        group_consecutive_messages=False,
        placeholder="Drop pictures or a video below and ask, or begin with one of these.",
        allow_file_downloads=False,
        examples=shown,
    )


def _textbox() -> Question:
    return Question(
        label="Your question",
        show_label=False,
        placeholder="Ask; pictures or a video can be dropped here",
        file_count="multiple",
        file_types=["image", "video"],
        max_plain_text_length=100_000,  # Gradio makes a file of a longer one
        autofocus=True,
    )


def _settings() -> list[Component]:
    """In the order in which `_sampling` takes them."""
    return [
        gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: always the likeliest words"),
        gr.Slider(0.05, 1, 1, step=0.05, label="top-p", info="Draw among the likeliest words of this share"),
        gr.Slider(0, 200, 0, step=1, label="top-k", info="Draw among so many words only; 0: all"),
        gr.Slider(1, 2, 1, step=0.05, label="Repetition penalty", info="1: none"),
        gr.Slider(1, 4096, DEFAULT_NEW_TOKENS, step=1, label="Longest answer", info="In tokens"),
        gr.Number(None, precision=0, label="Seed", info="Same seed, same words; empty: new ones each time"),
    ]


def _sampling(
    temperature: float, top_p: float, top_k: int, penalty: float, longest: int, seed: int | None
) -> Sampling:
    try:
        return Sampling(
            max_new_tokens=int(longest),
            temperature=temperature,
            top_p=top_p,
            top_k=int(top_k),
            repetition_penalty=penalty,
            seed=seed,
        )
    except ValueError as error:
        raise problem(str(error)) from error


def _head(owl: Owl, name: str) -> str:
    config = owl.model.config
    parameters = sum(parameter.numel() for parameter in owl.model.parameters())
    facts = (
        f"{config.vision_config.model_type} + {config.text_config.model_type}, "
        f"{parameters / 1e6:,.1f} M parameters, a picture is {config.num_image_tokens} tokens, "
        f"{str(owl.model.dtype).removeprefix('torch.')} on {owl.model.device}"
    )
    return f"<h1>{html.escape(name)}</h1><p>{html.escape(facts)}</p>"


def _paragraph(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'
