"""What a data URI holds is what was put into it, and what is none is refused."""

import io
import os

import pytest
from PIL import Image

from open_owl.data_uri import decoded, encoded, of_picture


def test_bytes_come_back_as_they_went_in():
    content = os.urandom(1000)
    uri = encoded(content, "image/png")
    assert uri.startswith("data:image/png;base64,")
    assert decoded(uri) == content
    assert decoded(uri.replace(";base64", ";BASE64")) == content


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 90})])
def test_a_picture_is_a_file_of_the_kind_that_was_asked_for(kind, options):
    picture = Image.effect_noise((20, 10), 30).convert("RGB")
    uri = of_picture(picture, kind, **options)
    assert uri.startswith(f"data:image/{kind.lower()};base64,")
    found = Image.open(io.BytesIO(decoded(uri)))
    assert (found.format, found.size) == (kind, (20, 10))
    if kind == "PNG":
        assert found.tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("data:image/png,raw", "encode it as base64"),
        ("data:image/png;base64", "encode it as base64"),
        ("data:image/png;base64,!!!!", "not base64"),
        ("data:image/png;base64,AAA", "not base64"),
        ("data:image/png;base64,AAé=", "not base64"),
    ],
)
def test_what_is_no_base64_is_refused_with_its_beginning(uri, said):
    with pytest.raises(ValueError, match=said):
        decoded(uri)
    with pytest.raises(ValueError, match="encode it") as refused:
        decoded("data:text/plain," + "x" * 10_000)
    assert len(str(refused.value)) < 100
