"""What transformers' `generate` must know of slots and pictures."""

import torch
from transformers import LogitsProcessorList


class WordsOnly(LogitsProcessorList):
    """Logits processors that see a prompt of words only.

    A slot's id may lie beyond the vocabulary, where a repetition penalty would look up a score that is not
    there.
    """

    def __init__(self, processors: LogitsProcessorList, slot_ids: tuple[int, ...]):
        super().__init__(processors)
        self.slot_ids = slot_ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        words = words_only(input_ids, self.slot_ids)
        return super().__call__(words, scores, **kwargs)  # pyright: ignore[reportArgumentType]


def words_only(input_ids: torch.Tensor, slot_ids: tuple[int, ...]) -> torch.Tensor:
    """ids [rows, length] with each slot replaced by the first word of its row, which was said in any case."""
    slots = torch.isin(input_ids, torch.tensor(slot_ids, device=input_ids.device))
    first_word = slots.long().argmin(dim=1, keepdim=True)  # the first position that is no slot
    word = input_ids.gather(1, first_word).masked_fill(slots.all(dim=1, keepdim=True), 0)
    return torch.where(slots, word, input_ids)


def repeat_media(
    pixels: torch.Tensor, slots_per_row: torch.Tensor, slots_of_one: int, times: int
) -> torch.Tensor:
    """Beams and several answers repeat each row `times` times: its pictures go with it, in order.

    pixels [pictures, ...] of all rows; slots_per_row [rows] -> [pictures * times, ...]

    Raises:
        ValueError: the rows' slots call for another number of pictures.
    """
    per_row = (slots_per_row // slots_of_one).tolist()
    if sum(per_row) != pixels.shape[0] or (slots_per_row % slots_of_one).any():
        raise ValueError(
            f"{int(slots_per_row.sum())} slots in input_ids but {pixels.shape[0]} pictures of {slots_of_one} "
            "visual tokens"
        )
    return torch.cat([row for row in pixels.split(per_row) for _ in range(times)])


__all__ = ["WordsOnly", "repeat_media", "words_only"]
