"""Out-of-distribution detection: every score, both directions, raw and normalised images."""
