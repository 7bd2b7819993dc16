"""Names in a config or a file that no library is known to write: are they of training, or of the features?"""

__all__ = ["is_said_in_training", "words"]


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_TRAINING = words(
    """adam adamw author aux auxk batch batches beta1 beta2 buffer cached checkpoint checkpoints coeff
    coefficient commit compile context created ctx dataset date dead decay description device entity epoch
    epochs eval evals ghost hash hf history hook id iteration l0 l1 layer len license lm log logger
    logging loss losses lp lr metrics model name notes optimizer path penalty project repo resample run
    schedule scheduler seed sparsity step steps stream streaming tags time tokenizer tokens train trained
    trainer training url verbose version wandb warm warmup"""
)
"""Words of names that tell where an autoencoder comes from."""
_FORWARD = words(
    """abs act activation activations acts b bias biases center centered centre centred clamp d dec decoder
    decoders enc encoder encoders error factor factors fn func function gain gate gated gelu group groups
    in input inputs jumprelu k mag mean median mu norm normalisation normalise normalised normalization
    normalize normalized norms offset out output outputs post pre relu rescale rescaled residual scale
    scaled scaler scaling shift sigma sign signed skip softplus std sub subtract tanh temperature
    threshold thresholds tied top topk transcode transcoder transform var variance w whiten whitening"""
)
"""Words of names that may tell how features are computed."""


def is_said_in_training(name: str) -> bool:
    """Whether a key or a tensor that no library is known to write is about training alone, by its words.

    Some word is of training, and none of computing features: ``wandb_url`` is, ``input_scale`` and ``foo``
    are not. The value plays no part.
    """
    parts = set(name.lower().replace(".", "_").replace("-", "_").split("_"))
    return bool(parts & _TRAINING) and not parts & _FORWARD
