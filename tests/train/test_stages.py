import pytest
import torch
from rich.console import Console
from tests.train.tiny import tiny_owl, tiny_stage
from transformers import BloomConfig, GPT2Config, OPTConfig

from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.train.stages import apply_stage, parameter_groups, part_of, stage_table

LORA = {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"}


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapted(model):
    """Last names of the layers that LoRA sits on."""
    return {
        name.split(".lora_A")[0].rpartition(".")[2]
        for name, _ in model.named_parameters()
        if ".lora_A" in name
    }


@pytest.mark.parametrize("part", ["vision_model", "abstractor", "language_model"])
def test_a_part_that_is_full_learns_whole_and_alone(part):
    learns = {name: "full" if name == part else "frozen" for name in LORA}
    model = apply_stage(tiny_owl()[0], tiny_stage(learns=learns))
    assert learning(model) == {name for name, _ in model.named_parameters() if part_of(name) == part}


def test_the_llms_head_belongs_to_the_llm():
    assert part_of("lm_head.weight") == "language_model"


def test_lora_sits_on_the_llm_only_even_where_the_vision_model_has_layers_of_the_same_name():
    model = apply_stage(tiny_owl()[0], tiny_stage(learns=LORA, lora={"targets": "all-linear"}))
    assert all(part_of(name) == "language_model" for name, _ in model.named_parameters() if ".lora_" in name)
    assert adapted(model) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_lora_without_targets_takes_the_query_and_value_projections():
    assert adapted(apply_stage(tiny_owl()[0], tiny_stage(learns=LORA))) == {"q_proj", "v_proj"}


def test_lora_without_targets_finds_blooms_fused_projection():
    tiny, _ = tiny_owl()
    config = tiny.config
    config.text_config = BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=32)
    model = apply_stage(MplugOwlForConditionalGeneration(config), tiny_stage(learns=LORA))
    assert adapted(model) == {"query_key_value"}


def test_a_lora_target_that_the_llm_lacks_is_refused_with_what_it_has():
    with pytest.raises(ValueError, match=r"no linear layer named qkv; it has down_proj, .*q_proj"):
        apply_stage(tiny_owl()[0], tiny_stage(learns=LORA, lora={"targets": ["qkv", "q_proj"]}))


def test_lora_can_learn_beside_the_whole_vision_model():
    model = apply_stage(tiny_owl()[0], tiny_stage(learns=LORA | {"vision_model": "full"}))
    assert {part_of(name) for name in learning(model)} == {"vision_model", "abstractor", "language_model"}


def test_weight_decay_is_for_matrices_and_each_part_has_its_rate():
    rates = {"learning_rate": 1e-3, "learning_rate_by_part": {"abstractor": 5e-3}, "weight_decay": 0.1}
    learns = {"vision_model": "full", "abstractor": "full", "language_model": "full"}
    stage = tiny_stage(learns=learns, optimizer=rates)
    model = apply_stage(tiny_owl()[0], stage)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain, rate_of = set(), set(), {}
    for group in parameter_groups(model, stage):
        found = {names[id(parameter)] for parameter in group["params"]}
        (decayed if group["weight_decay"] else plain).update(found)
        rate_of |= dict.fromkeys(found, group["lr"])
    assert decayed | plain == learning(model)
    assert "model.abstractor.query_tokens" in plain
    assert "model.abstractor.vit_eos" in plain
    assert "model.vision_model.embeddings.position_embedding" in plain
    assert not any("norm" in name or name.endswith("bias") for name in decayed)
    assert "model.abstractor.layers.0.attention.q_proj.weight" in decayed
    assert {rate_of[name] for name in rate_of if part_of(name) == "abstractor"} == {5e-3}
    assert {rate_of[name] for name in rate_of if part_of(name) == "vision_model"} == {1e-3}


def decayed(model, stage):
    """Names of what has weight decay."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for group in parameter_groups(model, stage) if group["weight_decay"]]
    return {names[id(parameter)] for group in groups for parameter in group["params"]}


DECAY = {"optimizer": {"learning_rate": 1, "weight_decay": 0.1}, "learns": dict.fromkeys(LORA, "full")}


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
def test_an_encoders_table_of_positions_has_no_weight_decay(parts, encoder):
    stage = tiny_stage(**DECAY)
    found = decayed(apply_stage(parts.fresh_owl(encoder, "llama")[0], stage), stage)
    embeddings = {name for name in found if "vision_model.embeddings" in name}
    assert embeddings == {"model.vision_model.embeddings.patch_embedding.weight"}
    assert "model.language_model.embed_tokens.weight" in found


@pytest.mark.parametrize(
    ("text", "positions", "words"),
    [
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=32), "wpe", "wte"),
        (
            OPTConfig(hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32,
                      word_embed_proj_dim=32),
            "decoder.embed_positions",
            "decoder.embed_tokens",
        ),
    ],
    ids=["gpt2", "opt"],
)  # fmt: skip
def test_an_llms_table_of_positions_has_no_weight_decay_and_that_of_words_has(text, positions, words):
    config, stage = tiny_owl()[0].config, tiny_stage(**DECAY)
    config.text_config = text
    model = apply_stage(MplugOwlForConditionalGeneration(config), stage)
    found = decayed(model, stage)
    assert f"model.language_model.{positions}.weight" in learning(model) - found
    assert f"model.language_model.{words}.weight" in found


def test_an_encoder_whose_layers_cannot_be_checkpointed_is_refused_by_name():
    model, _ = tiny_owl()
    model.model.vision_model.layers = torch.nn.ModuleList()
    with pytest.raises(
        ValueError, match="MplugOwlVisionModel has no layers that transformers can checkpoint"
    ):
        apply_stage(model, tiny_stage(gradient_checkpointing=["vision_model"]))


def test_the_table_counts_each_part_once_and_says_how_it_learns():
    stage = tiny_stage(learns=LORA)
    model, _ = tiny_owl()
    counts = {
        part: sum(p.numel() for n, p in model.named_parameters() if part_of(n) == part) for part in LORA
    }
    console = Console(record=True, width=120, quiet=False)
    with console.capture() as shown:
        console.print(stage_table(apply_stage(model, stage), stage))
    rows = {row.split()[1]: row for row in shown.get().splitlines() if row.startswith("│")}
    assert "frozen" in rows["vision_model"]
    assert f"{counts['abstractor']:,}" in rows["abstractor"]
    assert "LoRA, rank 8" in rows["language_model"]
    assert f"{8 * 64 * 2 * 2:,}" in rows["language_model"]  # rank x (in + out) x 2 projections x 2 layers
