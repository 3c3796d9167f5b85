import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.train.adapters import LORA, LORA_ALONE, logits, save_base, trained_adapter
from typer.testing import CliRunner

from open_owl.checkpoint import open_checkpoint
from open_owl.train.merge import merge, unmerge
from owl_cli.main import app


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("merge") / "base")


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_merged_and_unmerged_checkpoint_is_the_base_again(base, tmp_path):
    trained_adapter(tmp_path / "adapter", base, LORA_ALONE, targets="all-linear")
    merge(tmp_path / "adapter", tmp_path / "merged")
    assert unmerge(tmp_path / "merged", tmp_path / "adapter", tmp_path / "unmerged") == []
    before, merged, after = (weights(folder) for folder in (base, tmp_path / "merged", tmp_path / "unmerged"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=0)
        assert torch.equal(merged[name], weight) is ("_proj" not in name or "language_model" not in name)


def test_in_bfloat16_unmerging_gives_the_base_to_a_rounding(tmp_path):
    model, processor = open_checkpoint(save_base(tmp_path / "float32"), dtype=torch.bfloat16)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    trained_adapter(tmp_path / "adapter", tmp_path / "base", LORA_ALONE)
    merge(tmp_path / "adapter", tmp_path / "merged")
    unmerge(tmp_path / "merged", tmp_path / "adapter", tmp_path / "unmerged")
    before, merged, after = (weights(tmp_path / name) for name in ("base", "merged", "unmerged"))
    for name, weight in before.items():
        assert after[name].dtype == torch.bfloat16
        # What merging rounded away is half a unit in the last place of the merged weight.
        room = merged[name].float().abs().maximum(weight.float().abs()) * 2**-8 + 1e-9
        assert ((after[name].float() - weight.float()).abs() <= room).all(), name


def test_a_part_that_the_adapter_holds_whole_stays_as_trained_and_is_named(base, tmp_path):
    trained_adapter(tmp_path / "adapter", base)
    merge(tmp_path / "adapter", tmp_path / "merged")
    told = CliRunner().invoke(app, ["unmerge", *(str(tmp_path / n) for n in ("merged", "adapter", "out"))])
    assert "abstractor stays as" in told.output
    before, merged, after = (weights(folder) for folder in (base, tmp_path / "merged", tmp_path / "out"))
    for name in before:
        expected = merged if "abstractor" in name else before
        torch.testing.assert_close(after[name], expected[name], atol=1e-6, rtol=0)


def test_an_adapter_that_was_never_merged_in_is_not_taken_out(base, tmp_path):
    trained_adapter(tmp_path / "adapter", base)
    with pytest.raises(ValueError, match=r"was not made by merging .*abstractor.* is another one there"):
        unmerge(base, tmp_path / "adapter", tmp_path / "out")


def test_a_dora_adapter_cannot_be_taken_out(base, tmp_path):
    trained_adapter(tmp_path / "adapter", base, use_dora=True)
    merge(tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(ValueError, match="DoRA adapter: merging divides by the norm"):
        unmerge(tmp_path / "merged", tmp_path / "adapter", tmp_path / "out")


def test_two_adapters_of_one_base_are_added_as_peft_runs_both(base, tmp_path):
    trained_adapter(tmp_path / "first", base)
    trained_adapter(tmp_path / "second", base, LORA_ALONE, seed=2, rank=4, targets=["q_proj", "o_proj"])
    folders = [str(tmp_path / name) for name in ("first", "second", "both")]
    assert CliRunner().invoke(app, ["merge", *folders]).exit_code == 0
    both = PeftModel.from_pretrained(open_checkpoint(base)[0], folders[0], adapter_name="first")
    both.load_adapter(folders[1], adapter_name="second")
    alone = logits(both)
    both.base_model.set_adapter(["first", "second"])
    torch.testing.assert_close(logits(open_checkpoint(folders[2])[0]), logits(both), atol=1e-5, rtol=0)
    assert (logits(both) - alone).abs().max() > 1e-3


def test_an_adapter_trained_on_top_of_another_opens_with_it(base, tmp_path):
    trained_adapter(tmp_path / "first", base)
    upper = logits(trained_adapter(tmp_path / "second", tmp_path / "first", LORA_ALONE, seed=2))
    torch.testing.assert_close(logits(open_checkpoint(tmp_path / "second")[0]), upper, atol=1e-5, rtol=0)
    merge(tmp_path / "first", tmp_path / "middle")
    theirs = PeftModel.from_pretrained(open_checkpoint(tmp_path / "middle")[0], str(tmp_path / "second"))
    torch.testing.assert_close(logits(theirs), upper, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make_second", "told"),
    [
        (lambda base, out: trained_adapter(out, base, LORA), "both hold a whole abstractor"),
        (lambda base, out: trained_adapter(out, base, LORA_ALONE, use_dora=True), "is a DoRA adapter"),
        (lambda base, out: trained_adapter(out, out.parent / "first"), "different bases"),
        (lambda base, out: shutil.copytree(base, out), "is not an adapter directory"),
    ],
)
def test_adapters_that_are_no_sum_are_refused(make_second, told, base, tmp_path):
    trained_adapter(tmp_path / "first", base)
    make_second(base, tmp_path / "second")
    with pytest.raises(ValueError, match=told):
        merge([tmp_path / "first", tmp_path / "second"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
