"""Files written whole or not at all, and the manifest by which a reader knows a folder's files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "run.json"
# What is not finished yet, and whose process it is, on which machine.
PARTIAL = re.compile(r"\..*?(?:@(?P<host>[^@]+))?\.(?P<process>\d+)\.partial")
PROBE = 2**16  # bytes


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; rename it when all went well.

    On an error, Ctrl-C included, the temporary file is removed and ``path`` stays as it was. The
    suffix is kept, since writers choose their format by it.

    Raises:
        OSError: what the operating system refuses, with the path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [p.name for p in Path(folder).iterdir()]
    ['a.txt']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_path(target)
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.errno is not None:  # a full disk comes without the name of the file
            error.filename = str(target)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def partial_path(target: Path) -> Path:
    """Return where this process writes what becomes ``target`` when it is whole.

    Processes of several machines, which may share the folder, have different names.
    """
    process = f"{platform.node()}.{os.getpid()}"
    return target.with_name(f".{target.stem}@{process}.partial{target.suffix}")


def remove_partials(folder: Path, *, of_living: bool = False) -> None:
    """Remove what processes that ended, by a kill for instance, left unfinished in a folder.

    Whether a process of another machine has ended is not known here.

    Args:
        folder: looked through without the folders in it.
        of_living: whether to remove those of processes that run as well, where no other one can be
            writing: the number of an ended process may have become that of another one.
    """
    for path in folder.glob(".*.partial*"):
        found = PARTIAL.match(path.name)
        if found and (of_living or _has_ended(found["host"], int(found["process"]))):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _has_ended(host: str | None, process: int) -> bool:
    if host not in (None, platform.node()) or os.name == "nt":  # there no signal does nothing
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def check_writable(folder: Path) -> None:
    """Make a folder and write a file into it, so that a refusal comes before the work.

    Raises:
        OSError: says what the operating system refuses.
    """
    probe = partial_path(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("wb") as file:
                file.write(bytes(PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} should be a folder that can be written to; got {error.strerror or error}: "
            "name another folder, or free some space"
        ) from None


@dataclass(frozen=True)
class Manifest:
    """The files of a finished folder, each with its SHA-256.

    Whoever reads a file through it gets what was written together, or an error: a file that was
    altered, or left by another run, has another checksum.

    Attributes:
        folder: where they lie.
        files: the checksum of each, by its path within the folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.json").write_text("[1]")
    ...     _ = Manifest.write(Path(folder))
    ...     Manifest.read(Path(folder)).read_json("a.json")
    [1]
    """

    folder: Path
    files: Mapping[str, str]

    @classmethod
    def write(cls, folder: Path) -> Manifest:
        """Write ``run.json``, the manifest of all files that lie in a folder.

        Returns:
            The manifest.
        """
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
        files = {p.relative_to(folder).as_posix(): _sha256(p.read_bytes()) for p in paths}
        _write_json(folder / MANIFEST, {"files": files, "sha256": _of_list(files)})
        return cls(folder, files)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            ValueError: where there is none, it was altered, or the folder is not finished.
        """
        expected = f"{folder} should be the folder of a finished run"
        again = "run the study to its end, or correct the path"
        try:
            content = json.loads((folder / MANIFEST).read_bytes())
            files, found = content["files"], content.get("sha256")
            whole = found is not None and found == _of_list(files)
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(
                f"{expected}; its {MANIFEST} cannot be read ({reason}): {again}"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{expected}; its {MANIFEST} is damaged: {again}") from None
        if not whole:
            got = "was altered" if found else "says that a run was interrupted as it was written"
            raise ValueError(f"{expected}; its {MANIFEST} {got}: {again}")
        return cls(folder, files)

    def read_bytes(self, name: str) -> bytes:
        """Read one of the files.

        Raises:
            ValueError: if it is not there, or not as it was written.
        """
        path = self.folder / name
        if name not in self.files:
            raise ValueError(f"{self.folder} should hold {name}; its {MANIFEST} lists no such file")
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"{path} cannot be read ({reason}): run the study again") from None
        if _sha256(content) != self.files[name]:
            raise ValueError(
                f"{path} should be as the run wrote it; its SHA-256 is not the one in {MANIFEST}, "
                "so it was altered, or belongs to another run: run the study again"
            )
        return content

    def read_json(self, name: str) -> Any:
        """Read one of the files and parse it as JSON.

        Raises:
            ValueError: see ``read_bytes``, or if it is no JSON.
        """
        try:
            return json.loads(self.read_bytes(name))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{self.folder / name} should be JSON; got {error}") from None


def put_in_place(new: Path, folder: Path, *, also: Collection[str] = ()) -> None:
    """Replace the finished files of a folder by those of a new one, which is removed.

    From the first change to the last the folder's manifest is void, so that after a kill readers
    refuse it. Files that no manifest lists stay.

    Args:
        new: a folder on the same file system.
        folder: what it becomes.
        also: files of the folder to remove beside those that its manifest lists.
    """
    files = Manifest.write(new).files
    old = {*_listed(folder), *also}
    void: dict[str, str | None] = dict.fromkeys(sorted({*old, *files}))
    _write_json(folder / MANIFEST, {"files": void})
    for name in old - files.keys():
        (folder / name).unlink(missing_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(folder / name)
    (new / MANIFEST).replace(folder / MANIFEST)
    shutil.rmtree(new, ignore_errors=True)
    for emptied in {(folder / name).parent for name in old} - {folder}:
        with contextlib.suppress(OSError):  # it is not empty
            emptied.rmdir()


def _listed(folder: Path) -> list[str]:
    """Return the files that a manifest lists, void or damaged as it may be: none outside."""
    try:
        names = [*json.loads((folder / MANIFEST).read_bytes())["files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    paths = {name: PurePosixPath(name) for name in names if isinstance(name, str)}
    return [
        name
        for name, path in paths.items()
        if path.parts and not path.is_absolute() and ".." not in path.parts
    ]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _of_list(files: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(files, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
