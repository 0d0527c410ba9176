"""Results of neighbouring papers, measured again on the problems of the benchmark."""
