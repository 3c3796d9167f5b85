"""From messages to an answer: what a chat, a server or an evaluation sees of a model."""

from .owl import Owl

__all__ = ["Owl"]
