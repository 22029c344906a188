"""Lines of Python that panels share in what *Copy as Python* gives."""

import re
from collections.abc import Iterable


def looking(names: Iterable[str], *imports: str) -> tuple[str, ...]:
    """The lines that import, then record these names of one pass as `seen`, and of what is recorded of one block that
    of all."""
    every = dict.fromkeys(re.sub(r"^blocks\.\d+", "blocks.*", name) for name in names)
    patterns = ", ".join(f'"{name}"' for name in every)
    return (
        *imports,
        f"with torch.no_grad(), fathom.look(model, {patterns}) as seen:",
        "    _ = model(ids)",
    )
