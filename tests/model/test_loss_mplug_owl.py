import pytest
import torch
from tests.train.tiny import made_up_row, tiny_owl

from open_owl.data.packing import pad
from open_owl.model import loss_mplug_owl
from open_owl.model.loss_mplug_owl import losses_through


def loss_and_gradients(model, inputs):
    model.zero_grad()
    outputs = model(**inputs, num_items_in_batch=7)
    outputs.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}
    return outputs, gradients


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@pytest.mark.parametrize("bias_and_cap", [False, True])
def test_a_frozen_head_gives_the_loss_and_the_gradients_of_a_learning_one(monkeypatch, at_once, bias_and_cap):
    monkeypatch.setattr(loss_mplug_owl, "TOKENS_AT_ONCE", at_once)
    model, _ = tiny_owl()
    if bias_and_cap:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(model.lm_head.out_features))
        model.config.text_config.final_logit_softcapping = 0.5
    model.train()
    inputs = pad([made_up_row(number) for number in range(4)], 3).inputs
    learning, expected = loss_and_gradients(model, inputs)
    model.lm_head.requires_grad_(False)
    frozen, found = loss_and_gradients(model, inputs)
    assert learning.logits is not None
    assert frozen.logits is None
    torch.testing.assert_close(frozen.loss, learning.loss)
    torch.testing.assert_close(frozen.token_losses, learning.token_losses)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_no_supervised_token_is_a_loss_of_zero_with_a_gradient_of_zero():
    model, _ = tiny_owl()
    model.lm_head.requires_grad_(False)
    inputs = pad([made_up_row(0)], 3).inputs
    inputs["labels"][:] = -100
    outputs, gradients = loss_and_gradients(model.train(), inputs)
    assert float(outputs.loss) == 0
    assert outputs.token_losses.numel() == 0
    assert not any(gradient.any() for gradient in gradients.values())


def test_never_more_logits_than_a_few_tokens_have(monkeypatch):
    monkeypatch.setattr(loss_mplug_owl, "TOKENS_AT_ONCE", 4)
    seen = []

    def head(hidden_states):
        seen.append(len(hidden_states))
        return hidden_states @ torch.ones(8, 5)

    losses_through(head, torch.randn(10, 8, requires_grad=True), torch.zeros(10, dtype=torch.long))
    assert seen == [4, 4, 2]


def test_without_a_gradient_wanted_none_is_computed():
    total, each = losses_through(torch.nn.Identity(), torch.randn(3, 5), torch.tensor([0, 1, 2]))
    assert not total.requires_grad
    torch.testing.assert_close(each.sum(), total)


def test_in_bfloat16_the_divisor_is_not_rounded_before_it_divides():
    hidden_states = torch.randn(4, 8, dtype=torch.bfloat16, requires_grad=True)
    head = torch.nn.Linear(8, 5, dtype=torch.bfloat16).requires_grad_(False)
    total, _ = losses_through(head, hidden_states, torch.tensor([0, 1, 2, 3]))
    (whole,) = torch.autograd.grad(total, hidden_states, retain_graph=True)
    (third,) = torch.autograd.grad(total / 3001, hidden_states)
    assert torch.equal(third, (whole.float() / 3001).to(torch.bfloat16))
