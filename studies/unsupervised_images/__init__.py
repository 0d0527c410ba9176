"""The study of unsupervised learning on images: classes found without their labels, or with few."""
