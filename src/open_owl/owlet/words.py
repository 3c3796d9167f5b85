"""Every word that the little world can say: what is drawn, what is written in pictures, some plain knowledge.

The lists are the vocabulary: the tokenizer is built from them and a test checks that no generated text leaves
it.
"""

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring", "heart")
SIZES = ("small", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
ORDINALS = ("first", "second")
PICTURE_WORDS = (
    "cat", "dog", "sun", "cow", "pig", "hat", "cup", "box", "key", "map", "bus", "jam", "fox", "owl", "bee",
    "ant", "egg", "pen", "bed", "car", "fish", "bird", "tree", "moon", "milk", "lamp", "ship", "frog", "duck",
    "book", "king", "wolf",
)  # fmt: skip
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
SEASONS = ("spring", "summer", "autumn", "winter")
OPPOSITES = (
    ("hot", "cold"), ("up", "down"), ("day", "night"), ("open", "closed"), ("fast", "slow"), ("young", "old"),
    ("happy", "sad"), ("hard", "soft"), ("wet", "dry"), ("early", "late"), ("full", "empty"), ("high", "low"),
    ("near", "far"), ("light", "dark"), ("long", "short"), ("strong", "weak"), ("loud", "quiet"),
    ("thick", "thin"), ("rich", "poor"), ("clean", "dirty"),
)  # fmt: skip
THINGS_BY_COLOR = (
    ("grass", "green"), ("blood", "red"), ("sky", "blue"), ("coal", "black"), ("honey", "yellow"),
    ("pumpkin", "orange"), ("lavender", "purple"), ("flamingo", "pink"),
)  # fmt: skip
KINDS = (
    ("dog", "animal"), ("wolf", "animal"), ("horse", "animal"), ("rose", "flower"), ("tulip", "flower"),
    ("apple", "fruit"), ("pear", "fruit"), ("hammer", "tool"), ("saw", "tool"), ("shirt", "clothing"), ("hat",
    "clothing"), ("violin", "instrument"), ("drum", "instrument"), ("bread", "food"), ("cheese", "food"),
    ("chair", "furniture"), ("bed", "furniture"), ("oak", "tree"), ("pine", "tree"), ("bus", "vehicle"),
    ("car", "vehicle"),
)  # fmt: skip
YOUNG = (
    ("cat", "kitten"),
    ("cow", "calf"),
    ("sheep", "lamb"),
    ("horse", "foal"),
    ("duck", "duckling"),
    ("fox", "cub"),
)

PUNCTUATION = (".", ",", ";", ":", "?")
# The words that hold sentences together, in questions, captions and written scenes.
GLUE = (
    "what", "which", "where", "how", "many", "is", "are", "there", "do", "does", "say", "the", "a", "an",
    "of", "in", "at", "or", "and", "it", "you", "see", "me", "tell", "about", "show", "describe", "picture",
    "pictures", "both", "has", "have", "same", "different", "color", "shape", "size", "position", "thing",
    "things", "word", "words", "written", "letters", "read", "yes", "no", "nothing", "here", "comes", "after",
    "before", "opposite", "plus", "minus", "kind", "called", "spell", "repeat", "list", "last", "can",
    "please", "for", "to", "count", "look", "name", "find",
)  # fmt: skip


# Words that stand in for a colour or a shape where the LLM must read and cannot guess.
STAND_INS = tuple(
    dict.fromkeys(
        (*DAYS, *MONTHS, *PICTURE_WORDS, *(word for pair in OPPOSITES + KINDS + YOUNG for word in pair))
    )
)


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return {"cross": "crosses"}.get(shape, shape + "s")


def vocabulary() -> list[str]:
    """All words and marks, each once, in a fixed order."""
    pairs = OPPOSITES + THINGS_BY_COLOR + KINDS + YOUNG
    groups = (
        PUNCTUATION, GLUE, COLORS, SHAPES, tuple(map(plural, SHAPES)), SIZES, ROWS, COLUMNS, NUMBERS,
        ORDINALS, PICTURE_WORDS, LETTERS, DAYS, MONTHS, SEASONS, tuple(word for pair in pairs for word in
        pair),
    )  # fmt: skip
    return list(dict.fromkeys(word for group in groups for word in group))
