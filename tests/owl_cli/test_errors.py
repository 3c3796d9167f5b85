import json

import pytest
from transformers import AutoConfig

from open_owl.data.mixture import MixtureSettings
from owl_cli import errors
from owl_cli.errors import message_for_the_user


def caught(function, *arguments) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011 - any class is under test
        function(*arguments)
    return info.value


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    error = ModuleNotFoundError("No module named 'megatron'", name="megatron.energon")
    assert "pip install 'open-owl[train]'" in str(message_for_the_user(error))


def test_a_missing_module_that_no_extra_brings_is_a_defect() -> None:
    assert message_for_the_user(ModuleNotFoundError("No module named 'wings'", name="wings")) is None


def test_a_file_that_cannot_be_opened_is_named(tmp_path) -> None:
    path = tmp_path / "absent.json"
    assert message_for_the_user(caught(open, path)) == f"{path}: No such file or directory"


def test_a_value_error_of_ours_is_a_message_and_one_of_a_library_is_a_defect(monkeypatch) -> None:
    error = caught(json.loads, "{")
    assert message_for_the_user(error) is None
    monkeypatch.setattr(errors, "OURS", ("json",))
    assert message_for_the_user(error) == str(error)


def test_settings_of_ours_that_are_refused_are_told_with_their_keys(tmp_path, monkeypatch) -> None:
    sources = [str(tmp_path / "absent.jsonl"), {"path": str(tmp_path), "weight": -1}]
    error = caught(MixtureSettings.model_validate, {"sources": sources})
    assert message_for_the_user(error) is None
    monkeypatch.setattr(errors, "OURS", ("tests",))
    assert message_for_the_user(error) == (
        f"sources.0.path: {tmp_path}/absent.jsonl does not exist; "
        f"sources.1.path: {tmp_path} holds no .tar, .jsonl or .json file; "
        "sources.1.weight: Input should be greater than 0"
    )


def test_a_folder_of_no_known_model_is_a_message(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "parrot"}')
    message = message_for_the_user(caught(AutoConfig.from_pretrained, tmp_path))
    assert message is not None
    assert "parrot" in message


def test_an_error_class_of_ours_is_a_message_wherever_it_was_raised(monkeypatch) -> None:
    class Refused(Exception):
        pass

    assert message_for_the_user(Refused("row 3")) is None
    monkeypatch.setattr(Refused, "__module__", "open_owl.data.conversation")
    assert message_for_the_user(Refused("row 3")) == "row 3"


def test_a_key_error_keeps_its_traceback() -> None:
    assert message_for_the_user(KeyError("width")) is None
