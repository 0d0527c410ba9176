"""Ways to infer a task, all called as ``infer(model, *args) -> TaskPosterior``."""
