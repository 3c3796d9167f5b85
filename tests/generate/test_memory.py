from itertools import pairwise

import numpy as np
import psutil
import pytest
import torch

from open_owl.generate.memory import LayerShape, Memory, Region, common_prefix, free_spans

SHAPE = LayerShape(2, 3, 3, torch.float32, torch.device("cpu"))


def content(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def written(memory: Memory, region: Region, numbers: np.ndarray) -> None:
    """Keys and values that tell which number stands where."""
    for store in (*memory.keys, *memory.values):
        for at, number in enumerate(numbers):
            store[:, region.offset + at] = float(number)


def test_a_conversation_that_begins_alike_gets_what_is_known_of_it() -> None:
    memory = Memory([SHAPE, SHAPE], 100)
    first, known = memory.take(10, content(1, 2, 3))
    assert known == 0
    written(memory, first, content(1, 2, 3, 4))
    memory.release(first, content(1, 2, 3, 4))
    second, known = memory.take(10, content(1, 2, 3, 9, 9))
    assert known == 3
    for store in (*memory.keys, *memory.values):
        assert store[0, second.offset : second.offset + 3, 0].tolist() == [1, 2, 3]


def test_what_another_has_written_so_far_is_known_while_it_is_answered() -> None:
    memory = Memory([SHAPE], 100)
    first, _ = memory.take(10, content(1, 2, 3))
    written(memory, first, content(1, 2))
    first.content = content(1, 2)
    second, known = memory.take(10, content(1, 2, 3))
    assert known == 2
    assert memory.keys[0][0, second.offset : second.offset + 2, 0].tolist() == [1, 2]


def test_a_copy_changes_nothing_of_the_one_that_it_came_from() -> None:
    memory = Memory([SHAPE], 100)
    first, _ = memory.take(10, content(1, 2))
    written(memory, first, content(1, 2))
    first.content = content(1, 2)
    second, _ = memory.take(10, content(1, 7))
    written(memory, second, content(8, 8, 8))
    assert memory.keys[0][0, first.offset : first.offset + 2, 0].tolist() == [1, 2]


def test_the_longest_unused_is_given_up_first_and_never_one_in_use() -> None:
    memory = Memory([SHAPE], 30)
    regions = [memory.take(10, content(n))[0] for n in (1, 2, 3)]
    assert memory.take(10, content(4)) == (None, 0)
    for region, number in zip(regions[:2], (1, 2), strict=True):
        memory.release(region, np.full(10, number))
    again, known = memory.take(5, content(1, 1))  # the first is fresh again, so the second goes
    assert (again.offset, known) == (10, 2)
    assert memory.used == 15


def test_what_a_conversation_could_begin_with_is_given_up_where_nothing_else_can() -> None:
    memory = Memory([SHAPE], 10)
    region, _ = memory.take(10, content(1, 2))
    memory.release(region, content(1, 2))
    region, known = memory.take(10, content(1, 2, 3))
    assert (region.offset, known) == (0, 0)


def test_a_region_that_its_next_turn_holds_whole_is_free_again() -> None:
    memory = Memory([SHAPE], 30)
    region, _ = memory.take(10, content(1, 2))
    memory.release(region, content(1, 2))
    memory.take(20, content(1, 2, 3))
    assert not memory._idle


def test_ends_of_regions_are_free_once_their_conversation_has_ended() -> None:
    memory = Memory([SHAPE], 20)
    region, _ = memory.take(20, content(1))
    memory.release(region, content(1, 2))
    other, _ = memory.take(18, content(5))
    assert other.offset == 2
    memory.release(other, content())
    assert memory.take(10, content(1, 2, 3))[1] == 2


@pytest.mark.parametrize("seed", range(20))
def test_regions_never_overlap_whatever_comes_and_goes(seed) -> None:
    random = np.random.default_rng(seed)
    memory, busy = Memory([SHAPE], 200), []
    for step in range(200):
        if busy and random.random() < 0.5:
            region = busy.pop(random.integers(len(busy)))
            memory.release(region, random.integers(0, 3, random.integers(0, region.capacity + 1)))
        else:
            numbers = random.integers(0, 3, random.integers(1, 20))
            region, known = memory.take(len(numbers) + int(random.integers(1, 40)), numbers)
            if region is not None:
                assert known <= len(numbers)
                busy.append(region)
        taken = sorted([*busy, *memory._idle.values()], key=lambda region: region.offset)
        assert all(a.end <= b.offset for a, b in pairwise(taken)), step
        assert not taken or taken[-1].end <= 200
        assert memory.used == sum(region.capacity for region in busy)


def test_free_spans_lie_before_between_and_after() -> None:
    taken = [Region(12, 3), Region(5, 5)]
    assert list(free_spans(taken, 20)) == [(0, 5), (10, 12), (15, 20)]
    assert list(free_spans([Region(0, 20)], 20)) == []


def test_room_is_made_where_the_longest_unused_lie() -> None:
    memory = Memory([SHAPE], 50)
    regions = [memory.take(10, content(n))[0] for n in range(5)]
    for index in (3, 1, 2, 0, 4):
        memory.release(regions[index], np.full(10, index))
    assert memory.take(20, content(9))[0].offset in (10, 20)  # 1 and 2, or 2 and 3: not 0 nor 4
    assert {0, 40} <= set(memory._idle)


def test_a_conversation_without_room_is_not_tried_again_before_one_is_released(monkeypatch) -> None:
    memory = Memory([SHAPE], 20)
    region, _ = memory.take(15, content(1))
    assert memory.take(10, content(2))[0] is None
    monkeypatch.setattr(memory, "_longest_common", None)
    assert memory.take(12, content(2))[0] is None
    monkeypatch.undo()
    assert memory.take(5, content(2))[0] is not None
    memory.release(region, content(1))
    assert memory.take(10, content(2))[0] is not None


def test_no_more_conversations_are_remembered_than_can_be_looked_through(monkeypatch) -> None:
    monkeypatch.setattr("open_owl.generate.memory.MAX_IDLE", 3)
    memory = Memory([SHAPE], 100)
    for number in range(6):
        memory.release(memory.take(5, content(number))[0], content(number))
    assert [region.content[0] for region in memory._idle.values()] == [3, 4, 5]


def test_keys_and_values_of_other_sizes_are_kept_apart() -> None:
    memory = Memory([LayerShape(2, 3, 5, torch.float32, torch.device("cpu"))], 7)
    assert memory.both == [None]
    assert (memory.keys[0].shape, memory.values[0].shape) == ((2, 7, 3), (2, 7, 5))


def test_common_prefixes() -> None:
    assert common_prefix(content(1, 2, 3), content(1, 2, 4)) == 2
    assert common_prefix(content(1, 2), content(1, 2, 4)) == 2
    assert common_prefix(content(), content(1)) == 0


def test_memory_is_taken_as_it_is_written() -> None:
    """In pages of 2 MiB the first position of every head would take one: 512 MiB here."""
    shape = LayerShape(16, 64, 64, torch.float32, torch.device("cpu"))
    before = psutil.Process().memory_info().rss
    memory = Memory([shape] * 8, 32768)
    for keys, values in zip(memory.keys, memory.values, strict=True):
        keys[:, 0], values[:, 0] = 1, 2
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
