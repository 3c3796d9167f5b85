"""`owl demo`: a chat page in the browser."""

from typing import Annotated

import typer

from owl_cli.options import ApiKey, Device, Dtype, ModelArgument


def demo(
    model: ModelArgument = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines look.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    api_key: ApiKey = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Show a chat page, at http://HOST:PORT, until Ctrl-C.

    It is `owl serve --demo` with the settings that a page needs; the API is there too.

    \b
    Examples:
      owl demo
      owl demo my-owl --port 8080
    """
    from owl_cli.serve import serve

    typer.echo(f"loading; then the page is at http://{host}:{port}", err=True)
    serve(model, host=host, port=port, api_key=api_key, device=device, dtype=dtype, demo=True)
