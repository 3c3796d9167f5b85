from owl_cli import serve
from owl_cli.demo import demo


def test_the_demo_is_the_server_with_its_page(monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(serve, "serve", lambda model, **options: asked.update(options, model=model))
    demo("my-owl", port=8080, dtype="bfloat16")
    wanted = {"model": "my-owl", "host": "127.0.0.1", "port": 8080, "device": None, "dtype": "bfloat16"}
    assert asked == {**wanted, "demo": True}
