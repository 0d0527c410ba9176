"""A rat's choices over 80 sessions: hidden states, networks, and one gradient step in a chain."""
