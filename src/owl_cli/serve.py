"""`owl serve`: the model behind OpenAI's chat interface."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from owl_cli.options import ApiKey, Device, Dtype, ModelArgument, owlet

MIB = 2**20


def serve(
    model: ModelArgument = None,
    served_name: Annotated[
        str | None, typer.Option(help="What clients call the model; the folder's name where left out.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: ApiKey = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Pages of this origin may ask from a browser; may be repeated, * for all."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a request, after which its answer is cut.")
    ] = 300,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="The longest answer where a request does not say.")
    ] = 512,
    max_body_mib: Annotated[int, typer.Option(min=1, help="The longest request.")] = 32,
    max_running: Annotated[int, typer.Option(min=1, help="Answers made at once.")] = 64,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests that wait for that; more are told to come again (429).")
    ] = 1024,
    kv_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of all conversations together; a quarter of free memory if left out."
        ),
    ] = None,
    weights: Annotated[
        Literal["auto", "float32", "float16", "int8", "nf4"],
        typer.Option(help="Of the LLM: on a CPU all but nf4, on a GPU int8 or nf4 (or as --dtype says)."),
    ] = "auto",
    allow_remote_media: Annotated[
        bool, typer.Option("--allow-remote-media", help="Fetch http(s) URLs, from public addresses only.")
    ] = False,
    allow_local_media: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder whose files requests may name.")
    ] = None,
    max_images: Annotated[int, typer.Option(min=0, help="Pictures in one request.")] = 16,
    max_videos: Annotated[int, typer.Option(min=0, help="Videos in one request.")] = 2,
    max_media_mib: Annotated[int, typer.Option(min=1, help="The largest picture or video file.")] = 20,
    demo: Annotated[bool, typer.Option("--demo", help="Show a chat page at /.")] = False,
    log_content: Annotated[
        bool, typer.Option("--log-content", help="Write questions and answers to the log.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Serve a model to OpenAI clients, at http://HOST:PORT/v1, until Ctrl-C or SIGTERM.

    Running answers are finished before it ends; a second signal ends it at once. The log is JSON on
    standard error.

    \b
    Examples:
      owl serve my-owl
      owl serve my-owl --demo
      OPEN_OWL_API_KEY=... owl serve my-owl --host 0.0.0.0 --served-name owl
    """
    from open_owl.serve.server import bind
    from open_owl.serve.settings import ServeSettings

    checkpoint = model or owlet()
    settings = ServeSettings(
        model_name=served_name or _name(checkpoint),
        api_key=api_key,
        cors_origins=tuple(cors_origin or ()),
        max_body_bytes=max_body_mib * MIB,
        seconds_per_request=timeout,
        max_new_tokens=max_new_tokens,
        log_content=log_content,
    )
    limits = {"max_images": max_images, "max_videos": max_videos, "max_bytes": max_media_mib * MIB}
    media = {"allow_remote": allow_remote_media, "local_root": allow_local_media, **limits}
    engine = {"kv_tokens": kv_tokens, "max_running": max_running, "max_waiting": max_waiting}
    if api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo("owl: whoever reaches this address may ask; OPEN_OWL_API_KEY asks for a key", err=True)
    with bind(host, port) as listener:
        owl = _load(checkpoint, dtype, device, weights, engine)
        _run(owl, settings, media, demo, listener)


def _name(checkpoint: str) -> str:
    """A folder's name; a hub id as it is."""
    folder = Path(checkpoint)
    return folder.resolve().name if folder.exists() else checkpoint


def _load(checkpoint: str, dtype: str | None, device: str | None, weights: str, engine: dict):
    import open_owl

    return open_owl.load(checkpoint, dtype, device, weights, **engine)  # pyright: ignore[reportArgumentType]


def _run(owl, settings, media: dict, demo: bool, listener) -> None:
    from open_owl.serve.app import create_app
    from open_owl.serve.logs import write_json_lines
    from open_owl.serve.media import MediaPolicy, MediaReader
    from open_owl.serve.server import run

    write_json_lines()
    policy = MediaPolicy(num_frames=owl.processor.num_frames, **media)
    reader = MediaReader(policy)
    app = create_app(owl.engine, settings, reader)
    if demo:
        from open_owl.serve.page import mount_page

        app = mount_page(app, owl, settings.model_name, reader, settings.seconds_per_request)
    try:
        run(app, owl.engine, listener, settings.seconds_per_request)
    finally:
        owl.engine.close()
