"""A composed model says on text alone what its LLM says."""

import pytest
import torch
import transformers as hf
from tests.parts import LLMS, Parts, asked


@pytest.mark.parametrize("llm", [*LLMS, "gemma2", "granite", "cohere", "opt", "phi"])
@torch.no_grad()
def test_text_only_logits_are_the_original_causal_lms(parts: Parts, llm: str) -> None:
    model, _ = parts.owl("siglip", llm)
    original = hf.AutoModelForCausalLM.from_pretrained(parts.llm(llm)).eval()
    input_ids = torch.randint(3, 259, (2, 12), generator=torch.Generator().manual_seed(1))
    wanted = original(input_ids=input_ids).logits
    torch.testing.assert_close(model(input_ids=input_ids).logits, wanted, atol=1e-5, rtol=1e-5)
    assert wanted.std() > 0.01


@pytest.mark.parametrize(("llm", "tied"), [("llama", False), ("gemma", True), ("bloom", True)])
def test_the_head_is_tied_to_the_words_where_the_llm_ties_it(parts: Parts, llm: str, tied: bool) -> None:
    model, _ = parts.owl("siglip", llm)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_a_bias_of_the_head_comes_along(parts: Parts) -> None:
    bias = parts.owl("siglip", "phi")[0].lm_head.bias
    original = hf.AutoModelForCausalLM.from_pretrained(parts.llm("phi"))
    assert torch.equal(bias, original.lm_head.bias)
    assert bias.any()


@torch.no_grad()
def test_blooms_embedding_norm_is_for_words_and_not_for_visual_tokens(parts: Parts) -> None:
    model, processor = parts.owl("clip", "bloom")
    inputs = asked(processor, ("a<image>b", [1]))
    entered = {}
    hook = model.model.language_model.h[0].register_forward_pre_hook(
        lambda module, args, kwargs: entered.update(hidden=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    visual = model(**inputs).image_hidden_states[0]
    hook.remove()
    is_slot = inputs["input_ids"][0] == processor.image_token_id
    assert torch.equal(entered["hidden"][0, is_slot], visual)
    original = hf.AutoModelForCausalLM.from_pretrained(parts.llm("bloom")).transformer
    words = original.word_embeddings_layernorm(original.word_embeddings(inputs["input_ids"][0, ~is_slot]))
    torch.testing.assert_close(entered["hidden"][0, ~is_slot], words, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "llm", "eager"), [("clip", "bloom", "Bloom"), ("mobilenet_v2", "llama", "MobileNet")]
)
def test_a_part_without_the_wanted_attention_runs_eager_and_says_so(
    parts: Parts, tmp_path, caplog: pytest.LogCaptureFixture, encoder: str, llm: str, eager: str
) -> None:
    from open_owl.model import MplugOwlForConditionalGeneration
    from open_owl.model.attention_mplug_owl import logger

    parts.owl(encoder, llm)[0].save_pretrained(tmp_path)
    logger.warning_once.cache_clear()
    model = MplugOwlForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="sdpa")
    said = [record.getMessage() for record in caplog.records if "runs eager" in record.getMessage()]
    assert len(said) == 1
    assert eager in said[0]
    assert "sdpa" in said[0]
    used = [part.config._attn_implementation for part in model.model.children()]
    assert used.count("eager") == 1
    assert used.count("sdpa") == 2
    model.set_attn_implementation("eager")
    model.set_attn_implementation("sdpa")
    assert [part.config._attn_implementation for part in model.model.children()] == used
