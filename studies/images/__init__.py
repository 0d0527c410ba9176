"""Images: their class inferred in one pass and in every other way, and compared with the exact."""
