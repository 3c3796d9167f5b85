"""Slots, losses and logits of the whole model."""

import pytest
import torch
from tests.parts import Parts, asked


@pytest.fixture
def supervised(parts: Parts):
    """A model that may be put into training, and a batch of two rows whose last words carry labels."""
    model, processor = parts.fresh_owl("siglip", "llama")
    inputs = asked(processor, ("<image>What is it?", [1]), ("nothing to see", []))
    labels = inputs["input_ids"].clone()
    labels[:, :-6] = -100
    return model, inputs, labels


def test_training_runs_the_head_on_labels_only_with_the_same_loss(supervised) -> None:
    model, inputs, labels = supervised
    full = model.eval()(**inputs, labels=labels)
    sparse = model.train()(**inputs, labels=labels)
    assert full.logits.shape == (*labels.shape, 259)
    assert sparse.logits.shape == (12, 259)
    assert sparse.loss.item() == pytest.approx(full.loss.item(), abs=1e-6)
    predicted, targets = full.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    wanted = torch.nn.functional.cross_entropy(predicted, targets, ignore_index=-100)
    assert full.loss.item() == pytest.approx(wanted.item(), abs=1e-6)


@pytest.mark.parametrize("count", [48, torch.tensor(48)])
def test_the_loss_is_divided_by_the_supervised_tokens_of_the_whole_update(supervised, count) -> None:
    model, inputs, labels = supervised
    own = model(**inputs, labels=labels).loss.item()  # over its own 12
    assert model(**inputs, labels=labels, num_items_in_batch=count).loss.item() == pytest.approx(
        own / 4, rel=1e-6
    )


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_a_label_has_loss_0_and_gradients_of_0(supervised, training: bool) -> None:
    model, inputs, labels = supervised
    loss = model.train(training)(**inputs, labels=torch.full_like(labels, -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_slot_is_no_label_even_where_its_id_is_beyond_the_vocabulary(supervised) -> None:
    model, inputs, _ = supervised
    labels = inputs["input_ids"]
    is_slot = labels == model.config.image_token_id
    assert model.config.image_token_id >= model.config.text_config.vocab_size
    wanted = model(**inputs, labels=labels.masked_fill(is_slot, -100)).loss
    assert torch.equal(model(**inputs, labels=labels).loss, wanted)


@torch.no_grad()
def test_logits_are_kept_for_the_positions_asked_for(supervised) -> None:
    model, inputs, _ = supervised
    full = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=3).logits, full[:, -3:])
    chosen = torch.tensor([0, 5])
    torch.testing.assert_close(model(**inputs, logits_to_keep=chosen).logits, full[:, chosen])


def test_slots_without_their_pictures_are_refused_with_both_numbers(parts: Parts) -> None:
    model, processor = parts.owl("siglip", "llama")
    inputs = asked(processor, ("<image><image>", [1, 2]))
    with pytest.raises(ValueError, match=r"10 image slots .* but 1 images of 5 visual tokens"):
        model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"][:1])
    with pytest.raises(ValueError, match=r"10 image slots .* but 0 images"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match=r"0 video slots .* but 1 videos"):
        model(**inputs, pixel_values_videos=torch.zeros(1, 2, 3, 32, 32))


def test_a_picture_without_slots_is_refused(parts: Parts) -> None:
    model, processor = parts.owl("siglip", "llama")
    with pytest.raises(ValueError, match=r"0 image slots .* but 1 images"):
        model(**asked(processor, ("words", [])), pixel_values=torch.zeros(1, 3, 32, 32))


def test_pictures_beside_embeddings_are_refused(parts: Parts) -> None:
    model, _ = parts.owl("siglip", "llama")
    with pytest.raises(ValueError, match=r"give input_ids, not inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 4, 32), pixel_values=torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"exactly one of input_ids and inputs_embeds"):
        model()


@torch.no_grad()
def test_images_and_videos_of_one_row_fill_their_own_slots(parts: Parts) -> None:
    model, processor = parts.owl("siglip", "llama")
    inputs = asked(processor, ("a<image>b", [1]))
    video = torch.randn(1, 2, 3, 32, 32)
    slots = torch.full((1, 5), processor.video_token_id)
    ids = torch.cat([slots, inputs["input_ids"]], dim=1)
    words, _ = model.model._embed(ids, inputs["pixel_values"], video)
    assert torch.equal(words[0, :5], model.get_video_features(video).pooler_output[0])
    image = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    assert torch.equal(words[0, ids[0] == processor.image_token_id], image)


@torch.no_grad()
def test_right_padding_changes_nothing_for_the_words_before_it(supervised) -> None:
    model, inputs, _ = supervised
    row = {"input_ids": inputs["input_ids"][:1], "pixel_values": inputs["pixel_values"]}
    padded = torch.nn.functional.pad(row["input_ids"], (0, 3), value=1)
    mask = (torch.arange(padded.shape[1]) < row["input_ids"].shape[1]).long()[None]
    given = model(input_ids=padded, attention_mask=mask, pixel_values=row["pixel_values"]).logits[:, :-3]
    torch.testing.assert_close(given, model(**row).logits, atol=1e-5, rtol=1e-4)
