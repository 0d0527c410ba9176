"""How good a task posterior is, and its way to ArviZ."""
