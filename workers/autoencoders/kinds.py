"""Kinds of sparse autoencoders, and the roles of the tensors in one of them. No torch here.

Shapes: W width of the place, K features.
"""

__all__ = [
    "FACTORS",
    "FORMS",
    "PLAIN",
    "ROLES",
    "AutoencoderKind",
    "Role",
    "TensorFacts",
    "Tensors",
    "check_shapes",
    "is_said_in_training",
    "named",
    "old_form",
    "tensors_of",
    "words",
]

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from workers.errors import StudyError


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_TRAINING = words(
    """adam adamw alive amp args arxiv author aux auxk batch batches beta1 beta2 betas bf16 bibtex buffer
    cached checkpoint checkpoints citation coeff coefficient command comment comments commit
    compile context corpus cpu created ctx cuda dataset date ddp dead decay density description device
    distributed doi duration elapsed ema email entity epoch epochs eval evals evaluation every finetuning
    fp16 freq frequency fvu ghost git gpu gpus gradient hash hf history hook hours huggingface id info
    interval iteration l0 l1 layer len license lm log logger logging loss losses lp lr metrics minutes
    model momentum mse name neuronpedia note notes optim optimizer organization owner paper parallel path
    penalty precision pretrained project prompts recovered release repo resample revision run samples
    schedule scheduler score scores seconds seed shard shards shuffle sparsity split start step steps
    stream streaming tags time tokenizer tokens train trained trainer training url verbose version wandb
    warm warmup window world"""
)
"""Words of names that tell where an autoencoder comes from."""
_FORWARD = words(
    """abs act activation activations acts b basis bias biases bound bounds center centered centre centred
    clamp clip d dec decoder decoders dim dims dropout dtype enc encoder encoders eps epsilon error exp
    factor factors feature features fn func function gain gate gated gelu group groups in input inputs
    jumprelu k latent latents linear log2 mag mean median mu multi noise norm normalisation normalise
    normalised normalization normalize normalized norms offset out output outputs pca post power pre
    project projected projection quantization quantize quantized relu rescale rescaled residual rotate
    rotation scale scaled scaler scales scaling shift sigma sigmoid sign signed size skip softmax softplus
    sqrt square squared std sub subtract tanh temperature threshold thresholds tied top topk transcode
    transcoder transform var variance w whiten whitening width zero"""
)
"""Words of names that may tell how features are computed."""


def is_said_in_training(name: str) -> bool:
    """Whether a key or a tensor that no library is known to write is about training alone, by its words.

    Some word is of training, and none of computing features: ``wandb_url`` is, ``input_scale`` and ``foo``
    are not. The value plays no part.
    """
    parts = set(name.lower().replace(".", "_").replace("-", "_").split("_"))
    return bool(parts & _TRAINING) and not parts & _FORWARD


_AS_GOOD_AS_1 = 1e-5


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """Shape of one tensor, and the range of its numbers where it has at most one dimension."""

    shape: tuple[int, ...]
    least: float = math.nan
    greatest: float = math.nan
    total: float = math.nan
    """Their sum. NaN, all three, where the numbers were not looked at."""

    @classmethod
    def of(cls, shape: tuple[int, ...], numbers: npt.NDArray[Any]) -> "TensorFacts":
        """The facts of a tensor of this shape and these numbers."""
        if not numbers.size:
            return cls(shape)
        wide = numbers.astype(np.float64)
        return cls(shape, float(wide.min()), float(wide.max()), float(wide.sum()))

    @property
    def is_ones(self) -> bool:
        """Whether all numbers are 1, as far as SAELens tells factors from none."""
        return max(abs(self.least - 1), abs(self.greatest - 1)) <= _AS_GOOD_AS_1

    @property
    def num_numbers(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)


Activation = Literal["relu", "jumprelu", "topk", "batchtopk", "gated"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
Role = str
"""Role of a tensor: ``encoder``, ``decoder``, ``encoder_bias``, ``decoder_bias``; ``threshold`` or its
logarithm, ``log_threshold``; of gated ones ``gate_bias``, ``magnitude_bias`` and ``log_magnitude``, the
logarithm of how many times the gate's encoder that of the magnitudes is; ``factor`` of each feature before
decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderKind:
    """Computation of features from the tensors, and back: all that differs between autoencoders."""

    activation: Activation = "relu"
    k: int | None = None
    """Of ``topk``: how many features of an activation are kept."""
    normalization: Normalization = "none"
    """Of each activation, before it is encoded; undone by its own numbers after decoding."""
    input_scale: float | None = None
    """Factor that activations are multiplied by before they are encoded, and divided by after decoding."""
    is_rescaled: bool = False
    """Whether features are multiplied by the norms of their decoder rows, and divided before decoding."""
    is_finetuned: bool = False
    """Whether features are multiplied by a factor of their own before decoding."""

    def to_json(self) -> dict[str, object]:
        """As plain data: the activation, and what else is not as usual."""
        usual = AutoencoderKind()
        found = {name: getattr(self, name) for name in self.__slots__}
        return {k: v for k, v in found.items() if k == "activation" or v != getattr(usual, k)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**data)


PLAIN = AutoencoderKind()
"""ReLU, or JumpReLU where there is a threshold for each feature: all that versions before this one knew."""

FORMS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # As torch names two linear layers, whose weights are [K, W] and [W, K].
        "layers": {
            "encoder": "encoder.weight",
            "decoder": "decoder.weight",
            "encoder_bias": "encoder.bias",
            "decoder_bias": "decoder.bias",
            "threshold": "threshold",
        },
        # As most published ones name them: [W, K] and [K, W].
        "matrices": {
            "encoder": "W_enc",
            "decoder": "W_dec",
            "encoder_bias": "b_enc",
            "decoder_bias": "b_dec",
            "threshold": "threshold",
        },
    }
)
"""The names that plain files have."""

FACTORS = ("scaling_factor", "finetuning_scaling_factor")
"""Names that SAELens has for the factors of features before decoding."""

_NAMES: Mapping[Role, tuple[str, ...]] = MappingProxyType(
    {
        "encoder": ("encoder.weight", "W_enc", "w_enc"),
        "decoder": ("decoder.weight", "W_dec", "w_dec", "decoder"),
        "encoder_bias": ("encoder.bias", "b_enc"),
        "decoder_bias": ("decoder.bias", "b_dec", "bias", "decoder_bias"),
        "threshold": ("threshold", "topk_threshold"),
        "log_threshold": ("log_threshold",),
        "log_magnitude": ("r_mag",),
        "gate_bias": ("b_gate", "gate_bias"),
        "magnitude_bias": ("b_mag", "mag_bias"),
        "factor": FACTORS,
    }
)
"""Names of each tensor in the libraries."""

_LAYERS: tuple[Role, ...] = ("encoder", "decoder", "encoder_bias", "decoder_bias")
_LINEAR = frozenset(("encoder.weight", "decoder.weight"))
"""Weights of linear layers, [out, in]; all other matrices are [in, out]."""

ROLES: Mapping[Activation, tuple[Role, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("relu", "topk"), _LAYERS),
        **dict.fromkeys(("jumprelu", "batchtopk"), (*_LAYERS, "threshold")),
        "gated": ("encoder", "decoder", "decoder_bias", "log_magnitude", "gate_bias", "magnitude_bias"),
    }
)
"""The tensors that each activation has in both libraries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """Roles of the tensors of a file, and their sizes."""

    names: Mapping[Role, str]
    width: int
    """W."""
    num_features: int
    """K."""

    def is_transposed(self, role: Role) -> bool:
        """Whether a matrix is [K, W] where we have [W, K], or the other way round."""
        return self.names[role] in _LINEAR


def old_form(names: Collection[str]) -> Mapping[Role, str] | None:
    """The tensors of a plain file as every version read them; None where it is of neither form.

    Others are not looked at.
    """
    form = next((f for f in FORMS.values() if f["encoder"] in names and f["decoder"] in names), None)
    return form and {role: name for role, name in form.items() if name in names}


def named(where: str, names: Collection[str], roles: Collection[Role]) -> dict[Role, str]:
    """The tensors of these roles, as far as they are there.

    Raises:
        StudyError: one is there under two names.
    """
    found: dict[Role, str] = {}
    for role, called in _NAMES.items():
        there = [name for name in called if role in roles and name in names]
        if len(there) > 1:
            raise StudyError(
                f"{where}: {there[0]!r} and {there[1]!r} are both there; one of them is too many"
            )
        if there:
            found[role] = there[0]
    return found


def tensors_of(
    where: str,
    facts: Mapping[str, TensorFacts],
    wanted: Collection[Role],
    *,
    what: str,
    optional: Collection[Role] = (),
    beside: Iterable[str] = (),
    is_one_threshold: bool = False,
) -> Tensors:
    """The tensors of these roles.

    Args:
        where: the file, for errors.
        facts: of all its tensors.
        wanted: what has to be there; for a threshold its logarithm will do.
        what: whose tensors these are, for errors: ``the architecture 'gated'``.
        optional: what may be there as well.
        beside: names that are there for other reasons.
        is_one_threshold: whether one threshold may be that of all features.

    Raises:
        StudyError: a tensor is missing, is there twice, is of another kind, or its shape does not fit.
    """
    known = {*wanted, *optional} | ({"log_threshold"} if "threshold" in wanted else set())
    names = named(where, facts, known)
    if {"threshold", "log_threshold"} <= names.keys():
        raise StudyError(
            f"{where}: 'threshold' and 'log_threshold' are both there, and {what} has one of them"
        )
    for role in wanted:
        if role not in names and not (role == "threshold" and "log_threshold" in names):
            raise StudyError(
                f"{where}: {what} needs {' or '.join(map(repr, _NAMES[role]))}, and it is not there"
            )
    mine = {*names.values(), *beside}
    for name in facts:
        if name not in mine and not is_said_in_training(name):
            raise StudyError(
                f"{where} holds {name!r}, which {what} does not have or this version does not know"
            )
    return check_shapes(where, facts, names, is_one_threshold=is_one_threshold)


def check_shapes(
    where: str,
    facts: Mapping[str, TensorFacts],
    names: Mapping[Role, str],
    *,
    is_one_threshold: bool = False,
) -> Tensors:
    """The tensors of these names, whose shapes fit each other.

    Args:
        where: the file, for errors.
        facts: of all its tensors.
        names: which is what.
        is_one_threshold: whether one threshold may be that of all features.

    Raises:
        StudyError: they do not.
    """
    encoder = facts[names["encoder"]].shape
    is_matrix = len(encoder) == 2
    width, count = (encoder[::-1] if names["encoder"] in _LINEAR else encoder) if is_matrix else (0, 0)
    wanted: dict[Role, tuple[object, ...]] = {
        "encoder": encoder if is_matrix else ("two", "dimensions"),
        "decoder": (width, count) if names["decoder"] in _LINEAR else (count, width),
        "decoder_bias": (width,),
    }
    for role, name in names.items():
        shape, right = facts[name].shape, wanted.get(role, (count,))
        if role == "threshold" and is_one_threshold and shape in ((), (1,)):
            continue
        if shape != right:
            raise StudyError(
                f"{where}: {name} has the shape {list(shape)}; with {names['encoder']} {list(encoder)} it"
                f" must have {list(right)}"
            )
    return Tensors(names=names, width=width, num_features=count)
