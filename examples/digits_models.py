"""A small residual CNN and a small vision transformer, trained here on real digits.

``cnn`` and ``vit`` return a trained model and one example of its inputs, as a sweep wants them. The
first call of each trains it from scratch (about a minute on two cores) and keeps the weights in
``runs/digits/`` beside the sweeps' results, under a name that changes with the recipe.

- CNN: a ResNet (He et al. 2016) for small images: 3x3 convolutions with batch norm, two stages of
  64 and 128 channels, 72 million multiply-adds.
- ViT (Dosovitskiy et al. 2021): 16 tokens, 6 layers of width 128 with 4 heads, 20 million.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import digits
import torch
from digits import CLASSES, SIZE, splits
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).resolve().parents[1] / "runs" / "digits"
SEED = 1998
BATCH = 64

Model = tuple[nn.Module, dict[str, Tensor]]


def cnn() -> Model:
    """The residual CNN: image float32 [1, 1, 16, 16] -> logits [1, 10]."""
    return trained("cnn", ResidualNetwork, epochs=20, rate=2e-3), _example()


def vit() -> Model:
    """The vision transformer: image float32 [1, 1, 16, 16] -> logits [1, 10]."""
    return trained("vit", VisionTransformer, epochs=30, rate=1.5e-3), _example()


def _example() -> dict[str, Tensor]:
    return {"image": torch.from_numpy(splits()["training"].pixels[:1])}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, and what comes in added to what they give."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """ResNet for images of 16x16: a 3x3 stem, stages at 16x16 and 8x8, global average pooling."""

    def __init__(self, widths: tuple[int, int] = (64, 128), blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        layers, before = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(ResidualBlock(before, width, 2 if stage and not block else 1))
                before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(image)).mean(dim=(2, 3)))


class VisionTransformer(nn.Module):
    """ViT whose tokens come from two 3x3 convolutions (Xiao et al. 2021), as few images teach
    patches little; positions are learned, and the mean over tokens stands for a class token."""

    def __init__(self, width: int = 128, layers: int = 6, head: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )
        self.positions = nn.Parameter(0.5 * torch.randn(1, (SIZE // 4) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, width // head, 4 * width, dropout=0.0, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.stem(image).flatten(2).transpose(1, 2)
        return self.head(self.encoder(tokens + self.positions).mean(dim=1))


def trained(name: str, build: Callable[[], nn.Module], epochs: int, rate: float) -> nn.Module:
    """The model in evaluation mode, with the weights kept from an earlier call, or trained now."""
    path = WEIGHTS / f"{name}-{_recipe()}.pt"
    with _repeatable():
        model = build()
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
        else:
            train(model, epochs, rate)
            WEIGHTS.mkdir(parents=True, exist_ok=True)
            whole = path.with_suffix(".part")  # so that no other process reads half a file
            torch.save(model.state_dict(), whole)
            whole.replace(path)
    return model.eval()


def _recipe() -> str:
    """Digest of what decides on the weights: this file, and which images are trained on."""
    digest = hashlib.sha256()
    for file in (__file__, digits.__file__):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:8]


def train(model: nn.Module, epochs: int, rate: float) -> None:
    """AdamW with a warm-up and a cosine down, on images moved at random."""
    images = splits()["training"]
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    steps = epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / (0.1 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH)[: len(labels) // BATCH]:
            logits = model(moved(pixels[batch]))
            loss = F.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def moved(pixels: Tensor, degrees: float = 12, shift: float = 0.12, zoom: float = 0.1) -> Tensor:
    """Images turned, shifted (in shares of half a side), sheared and zoomed at random, a little."""
    count = len(pixels)
    angle = math.radians(degrees) * (2 * torch.rand(count) - 1)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0], matrix[:, 0, 1] = angle.sin(), -angle.sin()
    matrix[:, :, :2] += zoom * (2 * torch.rand(count, 2, 2) - 1)
    matrix[:, :, 2] = shift * (2 * torch.rand(count, 2) - 1)
    grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


@contextmanager
def _repeatable() -> Iterator[None]:
    """The same random numbers and the same order of sums at every call; all as before afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        torch.set_num_threads(1)  # sums in one order, whatever the number of cores
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)
