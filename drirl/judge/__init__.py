"""Judges: what reads a saved reply and says whether it refuses, harms or is broken (docs/judges.md)."""
