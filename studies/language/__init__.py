"""The language study: which corpus is this, from a few words, and adapting to a new one."""
