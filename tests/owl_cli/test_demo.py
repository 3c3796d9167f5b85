from typer.testing import CliRunner

from owl_cli import serve
from owl_cli.demo import demo
from owl_cli.main import app


def test_the_demo_is_the_server_with_its_page(monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(serve, "serve", lambda model, **options: asked.update(options, model=model))
    demo("my-owl", port=8080, dtype="bfloat16")
    wanted = {"model": "my-owl", "host": "127.0.0.1", "port": 8080, "device": None, "dtype": "bfloat16"}
    assert asked == {**wanted, "api_key": None, "demo": True}


def test_the_demo_asks_for_the_key_that_the_environment_has(monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(serve, "serve", lambda model, **options: asked.update(options))
    monkeypatch.setenv("OPEN_OWL_API_KEY", "sesame")
    assert CliRunner().invoke(app, ["demo", "--host", "0.0.0.0"]).exit_code == 0
    assert asked["api_key"] == "sesame"
