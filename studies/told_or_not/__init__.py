"""One kind of network, trained on several seeds, as a run to compare with others."""
