"""The paper's toy study (Figures 1-3, Table 1), compared with the exact posterior."""
