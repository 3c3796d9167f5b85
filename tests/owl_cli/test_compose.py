from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

from open_owl import open_checkpoint
from owl_cli.main import app


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=1, image_size=28, patch_size=7
    )
    Dinov2Model(config).save_pretrained(tmp_path / "encoder")
    CLIPImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "what", "bird"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(tmp_path / "llm")
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def compose(encoder: Path, llm: Path, out: Path, *options: str):
    parts = ["compose", "--vision", str(encoder), "--llm", str(llm), "--out", str(out)]
    return CliRunner().invoke(app, [*parts, *options])


def test_compose_writes_a_checkpoint_of_the_size_asked_for(encoder: Path, llm: Path, tmp_path: Path) -> None:
    sizes = ["--queries", "4", "--layers", "1", "--width", "8", "--heads", "2"]
    result = compose(encoder, llm, tmp_path / "owl", *sizes, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "an image becomes 5 visual tokens" in result.output
    model, _ = open_checkpoint(tmp_path / "owl")
    assert model.model.abstractor.query_tokens.shape == (1, 4, 8)
    assert model.config.visual_abstractor_config.num_hidden_layers == 1
    assert model.config.visual_abstractor_config.num_attention_heads == 2
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.bfloat16"}


def test_compose_reads_the_layer_and_the_patches_asked_for(encoder: Path, llm: Path, tmp_path: Path) -> None:
    result = compose(encoder, llm, tmp_path / "owl", "--queries", "4", "--vision-layer", "-2", "--no-cls")
    assert result.exit_code == 0, result.output
    config = open_checkpoint(tmp_path / "owl")[0].config
    assert config.vision_config.num_hidden_layers == 1
    assert config.vision_feature_select_strategy == "default"
    assert not config.vision_final_norm


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers(
    encoder: Path, llm: Path, tmp_path: Path
) -> None:
    result = compose(encoder, llm, tmp_path / "owl", "--width", "8", "--heads", "3")
    assert isinstance(result.exception, ValueError)
    assert "3 heads do not divide" in str(result.exception)
    assert not (tmp_path / "owl").exists()


def test_compose_puts_a_linear_projector_where_it_is_asked_for(
    encoder: Path, llm: Path, tmp_path: Path
) -> None:
    result = compose(encoder, llm, tmp_path / "owl", "--abstractor", "linear", "--no-cls")
    assert result.exit_code == 0, result.output
    # The processor's default crop of 224 pixels, in patches of 7.
    assert f"an image becomes {32 * 32 + 1} visual tokens" in result.output
    assert open_checkpoint(tmp_path / "owl")[0].config.visual_abstractor_config.kind == "linear"
