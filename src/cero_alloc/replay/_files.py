"""Which files a log consists of, and the step in a file's name."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from cero_alloc._checks import error_text

PACKED = (".gz", ".bz2", ".xz", ".zst")
FORMATS = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".json": "json",
    ".parquet": "parquet",
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
    ".eval": "eval",
}
_STEPPED = r"(step|iter|eps|epoch|batch|rollout|completions|global)[_-]?"
_RANK = re.compile(r"(?<![a-z])(rank|worker|shard|process|proc|gpu|node|host|replica|actor|dp|tp)[_-]?\d+", re.I)


def log_files(given: Sequence[str | Path], patterns: Sequence[str] = ()) -> list[str]:
    """Return the files that paths, folders and patterns name, those of a folder by step, then by name.

    Of a folder, only the files of the first of ``patterns`` that fits any are taken, with the extension of a compression or
    without.

    Raises
    ------
    ValueError
        For a folder or a pattern without a log, or for no file at all.
    """
    if not given:
        raise ValueError(error_text("files", "name at least one log", given, "Name files, folders or patterns."))
    files: list[str] = []
    for name in map(str, given):
        path = Path(name)
        if path.is_dir():
            logs = [file for file in path.rglob("*") if suffix(str(file)) in FORMATS and file.is_file()]
            fits = ([file for file in logs if _fits(file, pattern)] for pattern in patterns)
            inside = list(map(str, next(filter(None, fits), logs)))
        elif any(mark in name for mark in "*?[") and not path.exists():
            inside = [file for file in glob.glob(name, recursive=True) if Path(file).is_file()]
        else:
            files.append(name)
            continue
        if not inside:
            raise ValueError(f"{name} must hold a log, got no file that ends in {', '.join(FORMATS)}. Check the path.")
        files += sorted(inside, key=_order)
    return files


def suffix(file: str) -> str:
    """Return the extension without that of a compression, in lower case."""
    path = Path(file)
    return Path(path.stem).suffix.lower() if path.suffix.lower() in PACKED else path.suffix.lower()


def _fits(file: Path, pattern: str) -> bool:
    return any(file.match(pattern + packed) for packed in ("", *PACKED))


def step_in_name(file: str) -> float | None:
    """Return the step that a file's name tells: "train_data_step7.jsonl", "3.jsonl", or a folder such as "step_4"."""
    return _step_and_rest(file)[0]


def unit_of(file: str) -> str:
    """Return a file's name without its step and rank: files for which it is the same are written side by side by one run."""
    rest = re.sub(_STEPPED + r"\d+", r"\1", _step_and_rest(file)[1], flags=re.I)
    return _RANK.sub(r"\1", rest)


def _step_and_rest(file: str) -> tuple[float | None, str]:
    path = Path(file)
    stem, dot, ending = path.name.partition(".")
    numbers = re.findall(r"\d+", stem)
    if numbers and (stem.isdigit() or re.search(_STEPPED + r"0*\d+$", stem, re.I)):
        return float(numbers[-1]), str(path.parent / f"{stem.rstrip('0123456789')}{dot}{ending}")
    for i, part in reversed(list(enumerate(path.parts[:-1]))):
        found = re.fullmatch(r"(?:global_)?(?:step|iter)[_-]?(\d+)", part, re.I)
        if found:
            return float(found.group(1)), str(Path(*path.parts[:i], *path.parts[i + 1 :]))
    return None, file


def _order(file: str) -> tuple[float, list[object]]:
    step = step_in_name(file)
    pieces = [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", file) if piece]
    return (-1.0 if step is None else step, list(pieces))
