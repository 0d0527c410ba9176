"""Five tasks of two digits each, learned in sequence: what a task input protects."""
