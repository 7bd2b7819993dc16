"""Names in a config or a file that no library is known to write: are they of training, or of the features?"""

__all__ = ["is_said_in_training", "words"]


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
