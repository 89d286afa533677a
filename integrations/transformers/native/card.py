"""The model card of a native model on the Hub: it names the model that the weights come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mdm_schedules.files import write_atomically

_TEXT = """\
# {name}

The weights of {base} as a masked diffusion model of transformers' own classes. Nothing is trained
anew, and no code of the repository runs:

```python
import mdm_schedules as mdm

model = mdm.AutoModelForMaskedDiffusion.from_pretrained("{repo}")
```
"""


def write_card(folder: str | os.PathLike[str], base_model: str, repo_id: str | None = None) -> None:
    """Name `base_model` in the metadata of README.md in `folder`; write the card if there is none.

    A card that names a base model keeps it, and text that somebody wrote is kept.

    Args:
        folder: of the model.
        base_model: Hub id of the model that was loaded.
        repo_id: Hub id under which the folder is published, if it is known.
    """
    from huggingface_hub import ModelCard, ModelCardData

    file = Path(folder) / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    card = ModelCard(text, ignore_metadata_errors=True) if text.strip() else None
    data: Any = ModelCardData() if card is None else card.data
    data.base_model = getattr(data, "base_model", None) or base_model
    data.library_name = getattr(data, "library_name", None) or "transformers"
    data.tags = sorted({*(data.tags or ()), "masked-diffusion", "mdm-schedules"})
    body = "" if card is None else card.text.strip()
    if not body or "[More Information Needed]" in body:  # the empty form that transformers writes
        repo = repo_id or Path(folder).resolve().name
        body = _TEXT.format(name=repo.rpartition("/")[2], base=base_model, repo=repo)
    whole = f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"
    write_atomically(file, lambda name: Path(name).write_text(whole, encoding="utf-8"))
