from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from tests.serve.scripted import ScriptedEngine, running

from open_owl.serve.app import create_app
from open_owl.serve.media import MediaPolicy, MediaReader
from open_owl.serve.settings import ServeSettings


@pytest.fixture
def start() -> Iterator:
    """A function that serves a scripted engine with the given settings; its url, app and engine."""
    stack = []

    def begin(engine=None, policy=None, **settings) -> SimpleNamespace:
        engine = engine or ScriptedEngine()
        media = MediaReader(MediaPolicy(allow_remote=False, local_root=None, **(policy or {})))
        app = create_app(engine, ServeSettings(**({"model_name": "owl"} | settings)), media)
        server = running(app)
        url = server.__enter__()
        stack.append(server)
        return SimpleNamespace(url=url, app=app, engine=engine)

    yield begin
    for server in stack:
        server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """A scripted engine behind a server with the settings that one gets without asking."""
    engine = ScriptedEngine()
    media = MediaReader(MediaPolicy(allow_remote=False, local_root=None))
    app = create_app(engine, ServeSettings(model_name="owl"), media)
    with running(app) as url:
        yield SimpleNamespace(url=url, app=app, engine=engine)
