"""The study of unsupervised learning: tasks of streams found without their labels."""
