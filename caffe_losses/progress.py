"""How far a command is."""

from typing import Any, Iterable


def progress_bar(items: Iterable[Any], name: str, **options: Any) -> Iterable[Any]:
    """tqdm's, on a terminal that has it."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=name, leave=False, disable=None, **options)
