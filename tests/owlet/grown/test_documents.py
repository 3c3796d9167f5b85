"""Documents, charts and signs are read again from their pixels, and answers worked out from what was read."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from tests.owlet.grown.reading import letters_in, rows_of, without_noise, words_in

from open_owl.owlet.grown import charts, paper, signs
from open_owl.owlet.grown.canvas import noisy
from open_owl.owlet.grown.graders import is_right
from open_owl.owlet.grown.splits import Split
from open_owl.owlet.grown.words import WRITTEN


def pages(make, count, split=None):
    rng = random.Random(f"tests {make.__name__}")
    return [without_noise(make(rng, split or Split())) for _ in range(count)]


@pytest.mark.parametrize("hold_out", [None, "layout", "word"])
def test_a_receipt_reads_as_it_says_and_its_prices_add_up(hold_out):
    for page in pages(paper.make_receipt, 25, Split(hold_out)):
        (shop,), *lines = ([word for _, word in line] for line in words_in(page.draw(), page.look.ink))
        read = {name: int(price) for name, price in (sorted(line, key=str.isdigit) for line in lines)}
        assert shop == page.shop
        if page.shows_total:
            assert read.pop("total") == sum(read.values())
        assert read == dict(page.items)


def read_receipt(page):
    lines = [[word for _, word in line] for line in words_in(page.draw(), page.look.ink)][1:]
    read = {name: int(price) for name, price in (sorted(line, key=str.isdigit) for line in lines)}
    read.pop("total", None)
    return read


def receipt_answer(read, task, text):
    words = [word.strip("?.,") for word in text.split()]
    named = [read[word] for word in words if word in read]
    if task in ("price", "sum_of"):
        return str(sum(named))
    if task == "total":
        return str(sum(read.values()))
    if task == "costs_more":
        return next(name for name in read if read[name] == max(named))
    if task in ("dearest", "cheapest"):
        return (max if task == "dearest" else min)(read, key=read.__getitem__)
    if task == "bought":
        return str(len(read))
    return (
        json.dumps({**read, "total": sum(read.values())}) if task == "to_json" else "yes" if named else "no"
    )


def test_answers_about_receipts_are_those_that_their_pixels_give():
    done = Counter()
    for row in rows_of("documents", 150):
        page = without_noise(row.pictures[0])
        for turn in row.turns if page.group == "receipt" else ():
            if turn.task != "shop":
                answer = receipt_answer(read_receipt(page), turn.task, turn.text)
                assert is_right(turn.grader, answer, turn.answer), (turn, page)
                done[turn.task] += 1
    assert len(done) == 9


@pytest.mark.parametrize("hold_out", [None, "layout", "word"])
def test_a_form_shows_each_value_beside_or_below_its_label_and_the_box_as_it_is(hold_out):
    for page in pages(paper.make_form, 20, Split(hold_out)):
        drawn = page.draw()
        values = [word for line in words_in(drawn, page.look.ink) for _, word in line if word != "member"]
        told = [value for _, value in page.fields]
        if page.layout[0] == "beside":
            labels, values = values[::2], values[1::2]
            assert labels == [field for field, _ in page.fields]
        assert values == told
        ticked = (np.asarray(drawn) == page.look.ink).all(axis=2)[:, 6:13]
        rows = [y for y, _, letter in letters_in(drawn, page.look.ink) if letter == "m"]
        assert (ticked[rows[-1] : rows[-1] + 6].sum() > 4) == page.ticked


@pytest.mark.parametrize("hold_out", [None, "layout", "word"])
def test_a_table_has_every_value_under_its_head_and_beside_its_side(hold_out):
    for page in pages(paper.make_table, 25, Split(hold_out)):
        heads, *lines = words_in(page.draw(), page.look.ink)
        read = {}
        for (_, side), *values in lines:
            for (_, value), (_, head) in zip(values, heads, strict=True):
                read[side, head] = int(value)
        down = page.layout[0] == "names down"
        told = {(n, k) if down else (k, n): page.of(n, k) for n in page.names for k in page.labels}
        assert read == told
        assert all(
            abs(x - head_x) <= 6
            for _, *cells in lines
            for (x, _), (head_x, _) in zip(cells, heads, strict=True)
        )


def bar_lengths(chart):
    """Pixels of each bar in the bars' own colour, in order."""
    colored = (np.asarray(chart.draw()) == charts.FILLS[chart.fill]).all(axis=2)
    along = colored.sum(axis=1 if chart.layout[0] == "right" else 0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (along > 0).astype(int), [0]])))
    return [int(along[start:end].max()) for start, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("hold_out", [None, "layout", "word"])
def test_every_bar_is_as_long_as_its_value_says(hold_out):
    for chart in pages(charts.make_bars, 40, Split(hold_out)):
        assert [length / charts.UNIT for length in bar_lengths(chart)] == [value for _, value in chart.values]


def test_the_points_of_a_line_stand_as_high_as_their_values():
    for chart in pages(charts.make_line, 40):
        colored = (np.asarray(chart.draw()) == charts.FILLS[chart.fill]).all(axis=2)
        heights = [charts.BASE - np.flatnonzero(colored[:, chart.middle(i) + 4 - 8 * (i > 0)]).mean()
                   for i in range(len(chart.values))]  # fmt: skip
        for height, (_, value), i in zip(heights, chart.values, range(len(heights)), strict=True):
            other = chart.values[i - 1 if i else 1][1]
            between = value + (other - value) * 4 / chart.pitch
            assert abs(height / charts.UNIT - between) < 0.35


def chart_answer(read, task, text):
    words = [word.strip("?.,") for word in text.split()]
    named = {word: read[word] for word in words if word in read}
    limit = next((int(word) for word in words if word.isdigit()), 0)
    if task in ("highest", "lowest"):
        return (max if task == "highest" else min)(read, key=read.__getitem__)
    if task == "higher":
        return max(named, key=named.__getitem__)
    if task == "difference":
        return max(named.values()) - min(named.values())
    if task in ("value", "sum_values"):
        return sum(named.values())
    if task == "above":
        return sum(value > limit for value in read.values())
    return json.dumps(read) if task == "to_json" else "bars"


def test_answers_about_bars_are_those_that_the_measured_bars_give():
    done = Counter()
    for row in rows_of("charts", 200):
        chart = without_noise(row.pictures[0])
        if chart.sort != "bars":
            continue
        lengths = [length // charts.UNIT for length in bar_lengths(chart)]
        read = dict(zip([label for label, _ in chart.values], lengths, strict=True))
        for turn in row.turns:
            answer = chart_answer(read, turn.task, turn.text)
            assert is_right(turn.grader, turn.answer, str(answer)), (turn, chart)
            done[turn.task] += 1
    assert len(done) == 9


def test_a_word_on_a_sign_is_the_nearest_of_all_words_even_small_pale_tilted_and_noisy():
    words = WRITTEN["sign"].train + WRITTEN["sign"].held_out
    rng = random.Random(3)
    for shape, angle, scale in (("board", 0, 1), ("bubble", 10, 1), ("plate", -20, 2), ("arrow", 17, 2)):
        drawn = {
            word: signs.Signs((signs.Sign(word, scale, angle, 7, (48, 48)),), (shape, "level"), "bricks")
            for word in words
        }
        looks = np.stack([np.asarray(picture.draw()).astype(int) for picture in drawn.values()])
        for word in rng.sample(words, 15):
            seen = np.asarray(noisy(drawn[word].draw(), 8, rng.randrange(1 << 16))).astype(int)
            assert words[int(np.abs(looks - seen).sum(axis=(1, 2, 3)).argmin())] == word


@pytest.mark.parametrize("scale", [1, 2])
def test_a_level_sign_reads_as_it_says(scale):
    ink = signs.CONTRASTS[0][1]
    for word in WRITTEN["sign"].train:
        picture = signs.Signs((signs.Sign(word, scale, 0, 0, (48, 48)),), ("board", "level"), "plain")
        drawn = picture.draw()
        found = []
        for left in range(scale):
            for top in range(scale):
                part = drawn.crop((left, top, 96 - scale + 1 + left, 96 - scale + 1 + top))
                small = part.reduce(scale)  # letters of two pixels a stroke become letters of one
                found += [seen for line in words_in(small, ink) for _, seen in line]
        assert word in found


@pytest.mark.parametrize("make", [paper.make_receipt, paper.make_form, paper.make_table, charts.make_bars])
def test_the_letters_of_a_page_are_where_it_says(make):
    for page in pages(make, 10):
        told = {(letter.y - 3.5, letter.x - 2.5, letter.letter) for letter in page.letters()}
        read = set(letters_in(page.draw(), page.look.ink))
        assert read <= told
        faint = set(letters_in(page.draw(), paper.FAINT))
        assert {one for one in told - read - faint if one[2] != ":"} == set()


@pytest.mark.parametrize("angle", [-20, -8, 0, 3, 15])
def test_the_letters_of_a_tilted_sign_are_where_it_says(angle):
    def drawn(word):
        sign = signs.Sign(word, 2, angle, 0, (50, 40))
        return signs.Signs((sign,), ("board", "level"), "plain")

    told = drawn("dragon").letters()
    assert "".join(letter.letter for letter in told) == "dragon"
    for i, letter in enumerate(told):
        other = drawn("dragon"[:i] + "x" + "dragon"[i + 1 :])
        changed = (
            np.abs(np.asarray(drawn("dragon").draw()).astype(int) - np.asarray(other.draw())).max(axis=2) > 60
        )
        y, x = np.argwhere(changed).mean(axis=0) + 0.5
        assert abs(x - letter.x) < 3, (letter, x)
        assert abs(y - letter.y) < 3, (letter, y)


def test_every_word_that_may_stand_on_a_page_fits_its_place():
    for group, words in WRITTEN.items():
        longest = max(map(len, words.train + words.held_out))
        assert longest <= {"sign": 6, "name": 4, "label": 3}.get(group, 6), group
