"""The study of controls: what the task input is worth against any other extra input."""
