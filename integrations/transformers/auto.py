"""A mixin and an auto class that give a transformers model a schedule and `.generate()`."""

from __future__ import annotations

import copyreg
import inspect
import os
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from typing_extensions import Unpack

from mdm_schedules.checks import say_once, shown
from mdm_schedules.errors import (
    FormatError,
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    PluginError,
    StorageError,
)
from mdm_schedules.hub.client import DOWNLOAD, download_options
from mdm_schedules.hub.evaluation import MODEL_ID
from mdm_schedules.integrations.transformers.generation_config import (
    MaskedDiffusionGenerationConfig,
    as_masked_config,
)
from mdm_schedules.lookup import find_schedule, get_schedule
from mdm_schedules.models import ModelDenoiser, get_adapter
from mdm_schedules.models.llada import UNSET
from mdm_schedules.sampling import GenerationOutput
from mdm_schedules.sampling.generation import Prompts, generate
from mdm_schedules.sampling.options import GenerateOptions
from mdm_schedules.schedules import Linear, Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskedDiffusionMixin:
    """Gives a masked LM class `.schedule`, `.generate()`, and saves the schedule with the model."""

    _schedule: Schedule

    @property
    def schedule(self) -> Schedule:
        """The schedule of `generate`; set by whatever `get_schedule` takes, by default linear.

        Raises:
            MDMError: what it is set to is no schedule.
        """
        # not by getattr, which modules answer for their parameters
        found: Schedule | None = self.__dict__.get("_schedule")
        return Linear() if found is None else found

    @schedule.setter
    def schedule(self, value: str | os.PathLike[str] | Schedule) -> None:
        self.__dict__["_schedule"] = get_schedule(value)

    def generate(
        self,
        input_ids: Prompts | None = None,
        attention_mask: torch.Tensor | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerationOutput:
        """`mdm_schedules.generate` with this model, and its own schedule by default.

        `custom_generate=mdm_schedules.generate`, by which transformers' own `generate` calls it, is
        taken too.
        """
        custom: Any = options.pop("custom_generate", None)  # type: ignore[typeddict-item]
        call = generate if custom is None else custom
        if getattr(call, "func", call) is not generate:  # a partial of it gives a streamer
            raise InvalidTypeError(
                "this model writes with mdm_schedules.generate, so custom_generate must be that "
                f"function, or a functools.partial of it, got {shown(custom)}; leave it out: "
                "model.generate(input_ids, ...)"
            )
        return call(self, input_ids, attention_mask, **options)  # type: ignore[no-any-return]

    def denoiser(self) -> ModelDenoiser:
        """The model as `mdm_schedules.sample` and `InformationProfile.estimate` ask it."""
        return ModelDenoiser(get_adapter(self))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> None:
        """Save the model as transformers does, and its schedule and generation options beside."""
        plain = super().save_pretrained  # type: ignore[misc]
        plain(save_directory, *args, **kwargs)
        given = inspect.signature(plain).bind_partial(save_directory, *args, **kwargs).arguments
        if given.get("is_main_process", True):
            self._save_own(save_directory)

    def _upload_modified_files(
        self, working_dir: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        # where transformers publishes a model, be it by push_to_hub or by saving it: what is ours
        # must lie beside it by then
        self._save_own(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)  # type: ignore[misc]

    def _save_own(self, folder: str | os.PathLike[str]) -> None:
        self.schedule.save_pretrained(folder)
        config = getattr(self, "generation_config", None)
        if isinstance(config, MaskedDiffusionGenerationConfig):
            config.save_pretrained(folder)


if TYPE_CHECKING:

    class MaskedDiffusionModel(MaskedDiffusionMixin, PreTrainedModel):  # type: ignore[misc]
        """A transformers model with the mixin, as `AutoModelForMaskedDiffusion` returns it."""


class _Made(type):
    """Of classes made by `_with_mixin`, which pickle by the class that they are made of."""


@cache
def _with_mixin(cls: Any) -> Any:
    # A class of a class: pickle asks the metaclass how to store `made`, and gets the class it is
    # made of.
    kind = _Made if type(cls) is type else type("_Made", (_Made, type(cls)), {})
    copyreg.pickle(kind, lambda made: (_with_mixin, (made.__mro__[2],)))  # type: ignore[arg-type]
    # under its own name, since transformers writes the class name into config.architectures
    return kind(
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

        Released models that need code of their repository (LLaDA, Dream, LLaDA-MoE, LLaDA2, SDAR,
        Fast-dLLM v2, dLLM's a2d) are loaded as native models, which need none; with
        `trust_remote_code=True` their own code runs instead.

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
        # Before the weights, since a wrong schedule should cost no download.
        chosen = _carried(path, kwargs) if schedule is None else get_schedule(schedule)
        try:
            model = _load(path, *args, **kwargs)
        except ValueError as error:
            if isinstance(error, MDMError) or "for this kind of AutoModel" not in str(error):
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
        _settle_mask(model.config, path, kwargs)
        options = _saved_options(path, kwargs)
        if options is not None:
            model.generation_config = options
        return cls.from_model(model, chosen)

    @classmethod
    def from_model(cls, model: Any, schedule: str | Schedule = "linear") -> MaskedDiffusionModel:
        """Give a loaded model a schedule and `.generate()`, in place.

        The model stays an instance of its class.
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
            raise StorageError(f"there is no folder {shown(os.fspath(path))}; {wanted}")
        return
    folder = os.path.join(path, kwargs.get("subfolder") or "")
    files = ("config.json", "adapter_config.json")
    if not {"config", "gguf_file"} & kwargs.keys() and not any(
        os.path.exists(os.path.join(folder, x)) for x in files
    ):
        raise StorageError(f"{folder} holds no model, for it has no config.json; {wanted}")


def _carried(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> Schedule:
    """The schedule beside the model; linear if there is none."""
    found = find_schedule(path, **download_options(kwargs))
    if found is None:
        return Linear()
    if found != Linear():
        say_once(
            f"{path} carries the schedule {shown(found)}, which is used; schedule='linear' "
            "gives the plain one"
        )
    return found


def _settle_mask(config: Any, path: str | os.PathLike[str], kwargs: dict[str, Any]) -> None:
    """Fill in the mask token where the config has none; refuse two that disagree."""
    from mdm_schedules.integrations.transformers.native import tokenizer_mask

    configured = getattr(config, "mask_token_id", None)
    if config.model_type == "llada" and configured == UNSET:
        configured = None
    if kwargs.get("mask_token_id") is not None:
        return
    told = tokenizer_mask(path, kwargs)
    if configured is None:
        # The files as data first; only a tokenizer that hides its mask elsewhere is loaded for it.
        told = _tokenizer_mask(path, kwargs) if told is None else told
        if told is not None:
            config.mask_token_id = told
    elif told is not None and told != configured:
        raise InvalidValueError(
            f"{path} has two mask tokens: {told} by its tokenizer, {configured} by its config; "
            f"say which: from_pretrained(..., mask_token_id={told})"
        )


def _tokenizer_mask(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> int | None:
    """The mask token of the tokenizer beside the model; None if there is no tokenizer."""
    from transformers import AutoTokenizer

    from mdm_schedules.integrations.transformers.native.tokenizer import has_tokenizer

    try:
        if not has_tokenizer(path, kwargs):
            return None  # generate then asks for mask_token_id
        tokenizer = AutoTokenizer.from_pretrained(path, **_known(kwargs))
    except MDMError:
        raise
    except Exception:
        return None
    return tokenizer.mask_token_id  # type: ignore[no-any-return]


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The loading options that every from_pretrained takes."""
    return {name: kwargs[name] for name in (*DOWNLOAD, "trust_remote_code") if name in kwargs}


def _load(path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
    """The model: native where it is of a released family, else by transformers' auto classes."""
    from mdm_schedules.integrations.transformers import native

    # Loading in a way of the caller's own, which the native tables know nothing of.
    plain = {"config", "gguf_file", "state_dict"} & kwargs.keys()
    if not (plain or args or kwargs.get("trust_remote_code")) and native.is_released(path, kwargs):
        return native.load_native(path, **kwargs)
    try:
        return _auto_class(path, kwargs).from_pretrained(path, *args, **kwargs)
    except (MDMError, OSError):
        raise
    except Exception as error:  # of code of a repository, which can raise anything
        if not kwargs.get("trust_remote_code") or not native.is_released(path, kwargs):
            raise
        version = _transformers_version()
        older = ", or install transformers 4.57" if not version.startswith("4.") else ""
        raise PluginError(
            f"the code of {path} does not run on transformers {version} "
            f"({type(error).__name__}: {shown(str(error))}); load it without trust_remote_code, "
            f"which needs none of its code{older}"
        ) from error


def _transformers_version() -> str:
    """The installed one."""
    import transformers

    return transformers.__version__


def _auto_class(path: str | os.PathLike[str], kwargs: dict[str, Any]) -> Any:
    """The auto class under which a repository's own code is listed, else AutoModelForMaskedLM."""
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
