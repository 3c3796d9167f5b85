"""Receipts, forms and tables: looked up, added, compared, summarised. There is no text but the picture."""

import json
import random

from ..paper import Form, Receipt, Table, make_form, make_receipt, make_table
from ..rows import Row, Turn, about
from ..splits import Split
from .asking import Asker, ask, interview, yes_no


def make(rng: random.Random, split: Split) -> Row:
    """One document and up to three questions."""
    sort = rng.choice(("receipt", "receipt", "form", "table"))
    if sort == "receipt":
        page = make_receipt(rng, split)
        turns = interview(rng, split, page, OF_RECEIPTS)
    elif sort == "form":
        page = make_form(rng, split)
        turns = interview(rng, split, page, OF_FORMS)
    else:
        page = make_table(rng, split)
        turns = interview(rng, split, page, OF_TABLES)
    return about("documents", [page], turns)


def _price(rng: random.Random, split: Split, page: Receipt) -> Turn:
    name, price = rng.choice(page.items)
    return ask(rng, split, "price", price, "number", item=name)


def _total(rng: random.Random, split: Split, page: Receipt) -> Turn:
    return ask(rng, split, "total", page.total, "number")


def _sum_of(rng: random.Random, split: Split, page: Receipt) -> Turn:
    (one, price), (other, more) = rng.sample(page.items, 2)
    return ask(rng, split, "sum_of", price + more, "number", item=one, other=other)


def _costs_more(rng: random.Random, split: Split, page: Receipt) -> Turn:
    (one, price), (other, more) = rng.sample(page.items, 2)
    return ask(rng, split, "costs_more", one if price > more else other, item=one, other=other)


def _dearest(rng: random.Random, split: Split, page: Receipt) -> Turn:
    task, choose = rng.choice((("dearest", max), ("cheapest", min)))
    return ask(rng, split, task, choose(page.items, key=lambda item: item[1])[0])


def _bought(rng: random.Random, split: Split, page: Receipt) -> Turn:
    return ask(rng, split, "bought", len(page.items), "number")


def _on_receipt(rng: random.Random, split: Split, page: Receipt) -> Turn:
    names = [name for name, _ in page.items]
    truth = rng.random() < 0.5
    item = rng.choice(names if truth else [name for name in split.words("item") if name not in names])
    return yes_no(rng, split, "on_receipt", truth, item=item)


def _shop(rng: random.Random, split: Split, page: Receipt) -> Turn:
    return ask(rng, split, "shop", page.shop)


def _receipt_json(rng: random.Random, split: Split, page: Receipt) -> Turn:
    whole = {**dict(page.items), "total": page.total}
    return ask(rng, split, "to_json", json.dumps(whole), "json", paper="receipt")


def _field(rng: random.Random, split: Split, page: Form) -> Turn:
    field, value = rng.choice(page.fields)
    return ask(rng, split, "field", value, "number" if field == "age" else "word", field=field)


def _ticked(rng: random.Random, split: Split, page: Form) -> Turn:
    return yes_no(rng, split, "ticked", page.ticked)


def _form_json(rng: random.Random, split: Split, page: Form) -> Turn:
    whole = {field: int(value) if field == "age" else value for field, value in page.fields}
    answer = json.dumps({**whole, "member": page.ticked})
    return ask(rng, split, "to_json", answer, "json", paper="form")


def _cell(rng: random.Random, split: Split, page: Table) -> Turn:
    name, label = rng.choice(page.names), rng.choice(page.labels)
    return ask(rng, split, "cell", page.of(name, label), "number", name=name, label=label)


def _who_most(rng: random.Random, split: Split, page: Table) -> Turn:
    label = rng.choice(page.labels)
    return ask(rng, split, "who_most", max(page.names, key=lambda name: page.of(name, label)), label=label)


def _has_more(rng: random.Random, split: Split, page: Table) -> Turn:
    label = rng.choice(page.labels)
    one, other = rng.sample(page.names, 2)
    answer = max(one, other, key=lambda name: page.of(name, label))
    return ask(rng, split, "has_more", answer, name=one, other=other, label=label)


def _row_sum(rng: random.Random, split: Split, page: Table) -> Turn:
    name = rng.choice(page.names)
    total = sum(page.of(name, label) for label in page.labels)
    return ask(rng, split, "row_sum", total, "number", name=name)


def _column_sum(rng: random.Random, split: Split, page: Table) -> Turn:
    label = rng.choice(page.labels)
    total = sum(page.of(name, label) for name in page.names)
    return ask(rng, split, "column_sum", total, "number", label=label)


def _table_json(rng: random.Random, split: Split, page: Table) -> Turn:
    whole = {name: {label: page.of(name, label) for label in page.labels} for name in page.names}
    return ask(rng, split, "to_json", json.dumps(whole), "json", paper="table")


OF_RECEIPTS: tuple[Asker[Receipt], ...] = (
    _price, _price, _total, _sum_of, _costs_more, _dearest, _bought, _on_receipt, _shop, _receipt_json,
)  # fmt: skip
OF_FORMS: tuple[Asker[Form], ...] = (_field, _field, _ticked, _form_json)
OF_TABLES: tuple[Asker[Table], ...] = (_cell, _cell, _who_most, _has_more, _row_sum, _column_sum, _table_json)
