"""From messages to an answer: what a chat, a server or an evaluation sees of a model."""

from .answer import Answer, EngineFull
from .engine import Engine
from .owl import Owl
from .sampling import Sampling

__all__ = ["Answer", "Engine", "EngineFull", "Owl", "Sampling"]
