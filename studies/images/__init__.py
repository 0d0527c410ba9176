"""Images: which class is this, in one pass, and is it one of those known at all."""
