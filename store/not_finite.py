"""What to do about features that are NaN or infinite: one sentence, for all who meet them."""

from penultimate.store.key import Embedding


def not_finite_advice(key: Embedding) -> str:
    """What makes the features of an embedding finite, as far as their dtype and precision say it."""
    if key.dtype == "float16":
        return "float16 holds numbers up to 65,504: extract with --dtype float32"
    if key.precision == "float16":
        return "the network computed in float16, up to 65,504: extract with --precision float32 or bfloat16"
    if not key.weights:
        return "they were given so: mend or drop these rows"
    return (
        "the network itself gives them, and would again: check its weights and these images, or leave the network out"
    )
