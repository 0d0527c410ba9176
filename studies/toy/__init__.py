"""The paper's toy study (Figures 1-3, Table 1), with the exact posterior beside every estimate."""
