"""Damaged files are refused in words or set aside by every reader: ``benchmarks.mutations``."""

from benchmarks.mutations import READERS, fuzz


def test_damaged_files_are_refused_or_set_aside() -> None:
    found = fuzz(200, seed=1)
    assert sum(found.values()) == 200
    assert {reader for reader, _ in found} == {reader.name for reader in READERS}
    assert not [(reader, outcome) for reader, outcome in found if outcome.startswith("FAULT")]
