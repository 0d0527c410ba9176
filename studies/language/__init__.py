"""The corpus of a text, inferred from a few words, and adaptation to a new corpus."""
