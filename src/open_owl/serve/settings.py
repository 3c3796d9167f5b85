"""What a server is told when it starts."""

from dataclasses import dataclass

from open_owl.generate.sampling import DEFAULT_NEW_TOKENS


@dataclass(frozen=True)
class ServeSettings:
    """
    model_name: what clients call the model.
    api_key: asked of every request but `/health`; None: anyone who reaches the port may ask.
    cors_origins: pages of these origins may ask from a browser; ("*",) for all.
    max_body_bytes: the longest request, pictures and videos in it included.
    seconds_per_request: from its first byte to its last token; an answer is cut there.
    max_new_tokens: the longest answer where a request does not say.
    log_content: write questions and answers to the log.
    """

    model_name: str
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    seconds_per_request: float = 300
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    log_content: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError, naming the setting, for values that mean nothing."""
        if not self.model_name:
            raise ValueError("the model's name is empty; give one with --served-name")
        if self.api_key is not None:
            # A mounted secret ends with a line break, which no client sends.
            object.__setattr__(self, "api_key", self.api_key.strip())
        if self.api_key == "":
            raise ValueError("the API key is empty; give one, or leave it out (and unset OPEN_OWL_API_KEY)")
        for name in ("max_body_bytes", "seconds_per_request", "max_new_tokens"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; use above 0")
