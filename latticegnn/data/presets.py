"""Well-known teachers by short names, each pinned to one commit of the model hub."""

from typing import NamedTuple

from latticegnn.data.pooling import Pooling


class Preset(NamedTuple):
    """Where a well-known teacher lies, and how it is best read.

    Args:
        hub_id: Repository on the model hub.
        dim: D of its embeddings; the loaded model is held to it.
        pooling: Encoders were trained to be averaged; of a decoder only the last token has seen the whole text.
        revision: Commit of the repository.
        prefix: Text before every text.
        max_length: Tokens read of a text; None: what the repository says, else 128.
    """

    hub_id: str
    dim: int
    pooling: Pooling
    revision: str
    prefix: str = ""
    max_length: int | None = None


PRESETS = {
    "bert": Preset("google-bert/bert-base-uncased", 768, "mean", "86b5e0934494bd15c9632b12f734a8a67f723594"),
    "distilbert": Preset("distilbert/distilbert-base-uncased", 768, "mean", "12040accade4e8a0f71eabdb258fecc2e7e948be"),
    "roberta": Preset("FacebookAI/roberta-base", 768, "mean", "e2da8e2f811d1448a5b465c236feacd80ffbac7b"),
    "gpt2": Preset("openai-community/gpt2", 768, "last", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "dialogpt": Preset("microsoft/DialoGPT-small", 768, "last", "49c537161a457d5256512f9d2d38a87d81ae0f0e"),
    "llama2": Preset("meta-llama/Llama-2-7b-hf", 4096, "last", "01c7f73d771dfac7d292323805ebc428287df4f9"),
    "llama3": Preset("meta-llama/Meta-Llama-3-8B", 4096, "last", "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920"),
    "mistral": Preset("mistralai/Mistral-7B-v0.1", 4096, "last", "27d67f1b5f57dc0953326b2601d68371d40ea8da"),
    "codellama": Preset("codellama/CodeLlama-7b-hf", 4096, "last", "6c284d1468fe6c413cf56183e69b194dcfa27fe6"),
    # Its repository allows 256 tokens; it was trained with 128.
    "minilm": Preset(
        "sentence-transformers/all-MiniLM-L6-v2", 384, "mean", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf", "", 128
    ),
}
"""Name after ``preset:`` → what it stands for. The 7 and 8 billion weights of the last four decoders take about 15 GB
as bfloat16 and twice that as float32; Meta's two are gated."""


def preset(name: str) -> Preset:
    """Look up a preset.

    Raises:
        ValueError: When there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(
            f"A preset teacher must be one of {sorted(PRESETS)}; received {name!r}. "
            "Write e.g. 'preset:bert', a directory, or a hub id."
        )
    return PRESETS[name]
