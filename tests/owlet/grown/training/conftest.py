"""The tokenizer that the tests of training share."""

import pytest

from open_owl.owlet.grown.training.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def ids(tokenizer):
    return tokenizer.get_vocab()
