"""OpenOwl: give any language model eyes."""
