"""drirl: a reproducible benchmark and evaluation harness for LLM safety alignment."""

__version__ = "0.1.0"
