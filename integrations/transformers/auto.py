"""Classes that give a transformers model a schedule and `.generate()`: a mixin, and an auto
class.
"""

from __future__ import annotations

import logging
import os
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from typing_extensions import Unpack

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, InvalidTypeError, MDMError, StorageError
from mdm_schedules.hub.evaluation import MODEL_ID
from mdm_schedules.integrations.transformers.generation_config import (
    MaskedDiffusionGenerationConfig,
    as_masked_config,
)
from mdm_schedules.lookup import find_schedule, get_schedule
from mdm_schedules.models import ModelDenoiser, get_adapter
from mdm_schedules.sampling import GenerationOutput
from mdm_schedules.sampling.generation import generate
from mdm_schedules.sampling.options import GenerateOptions
from mdm_schedules.schedules import Linear, Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskedDiffusionMixin:
    """Gives a masked LM class `.schedule`, `.generate()`, and saves the schedule with the model."""

    schedule: Schedule

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerationOutput:
        """`mdm_schedules.generate` with this model, and its own schedule by default."""
        return generate(self, input_ids, attention_mask, **options)

    def denoiser(self) -> ModelDenoiser:
        """The model as `mdm_schedules.sample` and `InformationProfile.estimate` ask it."""
        return ModelDenoiser(get_adapter(self))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save the model as transformers does, and its schedule and generation options beside."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        self.schedule.save_pretrained(save_directory)
        config = getattr(self, "generation_config", None)
        if isinstance(config, MaskedDiffusionGenerationConfig):
            config.save_pretrained(save_directory)


if TYPE_CHECKING:

    class MaskedDiffusionModel(MaskedDiffusionMixin, PreTrainedModel):  # type: ignore[misc]
        """A transformers model with the mixin, as `AutoModelForMaskedDiffusion` returns it."""


@lru_cache(maxsize=64)
def _with_mixin(cls: Any) -> Any:
    # under its own name, since transformers writes the class name into config.architectures
    return type(
        cls.__name__,
        (MaskedDiffusionMixin, cls),
        {"__module__": cls.__module__, "__doc__": cls.__doc__},
    )


class AutoModelForMaskedDiffusion:
    """Loads a masked language model that can `.generate()`."""

    def __init__(self) -> None:
        raise InvalidTypeError(
            "use AutoModelForMaskedDiffusion.from_pretrained(...) or .from_model(model, schedule)"
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *args: Any,
        schedule: str | Schedule | None = None,
        **kwargs: Any,
    ) -> MaskedDiffusionModel:
        """A masked LM with a schedule.

        Args:
            path: folder or Hub id, as `transformers.AutoModelForMaskedLM.from_pretrained` takes it.
            schedule: name, spec, Hub id or Schedule; None takes the one that the folder or
                repository of the model carries, and logs once that it does, else linear.
            *args: passed on to transformers.
            **kwargs: passed on to transformers (dtype, device_map, revision, trust_remote_code,
                ...).

        Raises:
            InvalidTypeError: the model there is no masked LM.
            StorageError: `path` is a folder without a model, or neither a folder nor a Hub id.
        """
        _check_place(path, kwargs)
        chosen = _carried(path, kwargs) if schedule is None else get_schedule(schedule)
        try:
            model = _auto_class(path, kwargs).from_pretrained(path, *args, **kwargs)
        except ValueError as error:
            if "for this kind of AutoModel" not in str(error):
                raise
            raise InvalidTypeError(
                f"{path} holds no masked language model: transformers knows none of its kind for "
                "AutoModelForMaskedLM. "
                "Give a masked one (BERT, RoBERTa, ESM, ...), or trust_remote_code=True where the "
                "repository brings "
                "the code of one (LLaDA, Dream, ...); a model that you have loaded yourself runs "
                "with "
                "mdm_schedules.generate(model, input_ids, adapter='callable', ...) if it maps "
                "tokens [B, L] to logits"
            ) from error
        model = model[0] if isinstance(model, tuple) else model
        if getattr(model.config, "mask_token_id", None) is None:
            model.config.mask_token_id = _tokenizer_mask(path, kwargs)
        options = _saved_options(path, kwargs)
        if options is not None:
            model.generation_config = options
        return cls.from_model(model, chosen)

    @classmethod
    def from_model(cls, model: Any, schedule: str | Schedule = "linear") -> MaskedDiffusionModel:
        """Give a loaded model a schedule and `.generate()`, in place; it stays an instance of its
        class.
        """
        if not isinstance(model, MaskedDiffusionMixin):
            get_adapter(model)
            model.__class__ = _with_mixin(type(model))  # type: ignore[arg-type]
        model.schedule = get_schedule(schedule)
        return cast("MaskedDiffusionModel", model)


def _check_place(path: Any, kwargs: dict[str, Any]) -> None:
    """Say what is wrong with a place on this machine, of which the loaders speak as of the Hub."""
    if not isinstance(path, str | os.PathLike):
        raise InvalidTypeError(
            f"the model must be given by a folder or a Hub id, got {shown(path)}"
        )
    wanted = (
        "give a folder that a model's save_pretrained wrote, or a Hub id such as "
        "'google-bert/bert-base-uncased'"
    )
    if not os.path.isdir(path):
        if not MODEL_ID.fullmatch(os.fspath(path)):
            raise StorageError(f"there is no folder {os.fspath(path)}; {wanted}")
        return
    folder = os.path.join(path, kwargs.get("subfolder") or "")
    files = ("config.json", "adapter_config.json")
    if not {"config", "gguf_file"} & kwargs.keys() and not any(
        os.path.exists(os.path.join(folder, x)) for x in files
    ):
        raise StorageError(f"{folder} holds no model, for it has no config.json; {wanted}")


_FILES = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")


def _carried(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> Schedule:
    """The schedule beside the model; linear if there is none."""
    found = find_schedule(
        path, **{key: kwargs[key] for key in _FILES if kwargs.get(key) is not None}
    )
    if found is None:
        return Linear()
    if found != Linear():
        _say_once(
            f"{path} carries the schedule {shown(found)}, which is used; schedule='linear' "
            "gives the plain one"
        )
    return found


@cache
def _say_once(text: str) -> None:
    logging.getLogger("mdm_schedules").warning(text)


def _tokenizer_mask(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> int | None:
    """The mask token of the tokenizer beside the model; None if there is no tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **_known(kwargs))
    except MDMError:
        raise
    except Exception:
        return None  # generate then asks for mask_token_id
    return tokenizer.mask_token_id  # type: ignore[no-any-return]


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The loading options that every from_pretrained takes."""
    return {name: kwargs[name] for name in (*_FILES, "trust_remote_code") if name in kwargs}


def _auto_class(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> Any:
    """AutoModelForMaskedLM, or the auto class under which a repository with its own code lists its
    model.
    """
    import transformers

    names = ["AutoModelForMaskedLM"]
    if kwargs.get("trust_remote_code"):
        config = transformers.AutoConfig.from_pretrained(path, **_known(kwargs))
        listed = getattr(config, "auto_map", None) or {}
        names = [
            name for name in (*names, "AutoModelForCausalLM", "AutoModel") if name in listed
        ] + names
    return getattr(transformers, names[0])


def _saved_options(
    path: str | os.PathLike[str], kwargs: dict[str, Any]
) -> MaskedDiffusionGenerationConfig | None:
    """The generation options saved with the model, if they are ours."""
    from transformers import GenerationConfig

    given = {name: value for name, value in _known(kwargs).items() if name != "trust_remote_code"}
    try:
        stored = getattr(GenerationConfig.from_pretrained(path, **given), "masked_diffusion", None)
    except OSError:
        return None
    # transformers reads the file as it comes
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise FormatError(
            f"generation_config.json of {path} cannot be used: {shown(str(error))}"
        ) from error
    try:
        return None if stored is None else as_masked_config(stored)
    except MDMError as error:
        raise FormatError(f"generation_config.json of {path}: {error}") from error
