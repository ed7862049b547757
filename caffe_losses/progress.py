"""The progress bar of the commands."""

from typing import Any, Iterable


def progress_bar(items: Iterable[Any], name: str, **options: Any) -> Iterable[Any]:
    """tqdm's bar over the items on a terminal; the items alone where there is no tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=name, leave=False, disable=None, **options)
