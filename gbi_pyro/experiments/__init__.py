"""The studies: a frozen config in, results on disk out."""
