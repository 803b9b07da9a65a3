"""Your own PyTorch module and your own quality function: a small transformer that names the most
frequent symbol of a sequence.

Run ``python examples/own_module.py``: it trains the classifier (seconds), sweeps it and prints the
frontier. What a sweep needs is here in three functions: `model`, `calibration` and `quality`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Arrays = Mapping[str, NDArray[np.generic]]

SYMBOLS, LENGTH, WIDTH = 8, 32, 64
TRAINING, CALIBRATION, EVALUATION = 0, 1, 2  # seeds of disjoint random data


class Classifier(nn.Module):
    """Two encoder layers; input ``symbols`` int64 [B, 32], output logits [B, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(symbols)).mean(dim=1))


def sequences(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random sequences [count, 32] and each one's most frequent symbol (of a tie, the lowest)."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, SYMBOLS, (count, LENGTH))
    counts = (symbols[:, :, None] == np.arange(SYMBOLS)).sum(axis=1)
    return symbols, counts.argmax(axis=1)


def model(steps: int = 400) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The trained classifier and an example of its inputs; training takes seconds."""
    torch.manual_seed(TRAINING)
    classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3)
    symbols, labels = map(torch.from_numpy, sequences(64 * steps, TRAINING))
    for batch, wanted in zip(symbols.split(64), labels.split(64), strict=True):
        loss = nn.functional.cross_entropy(classifier(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval(), {"symbols": symbols[:1]}


def calibration() -> Iterator[Arrays]:
    """Inputs as the model will see them; the solvers fit the compressed weights to them."""
    for row in sequences(128, CALIBRATION)[0]:
        yield {"symbols": row[None]}


def quality(predict: Callable[[Arrays], Arrays]) -> dict[str, float]:
    """Any number of scores by name, from any use of the model; higher is better.

    ``predict`` takes inputs by name and returns outputs by name, as NumPy arrays.
    """
    symbols, labels = sequences(500, EVALUATION)
    right = 0
    for row, label in zip(symbols, labels, strict=True):
        (logits,) = predict({"symbols": row[None]}).values()
        right += int(logits.argmax() == label)
    return {"accuracy": right / len(labels)}


def main() -> None:
    """Sweep for two minutes and print the frontier."""
    from codesign import sweep_model

    result = sweep_model(
        model=model(),
        quality=quality,
        calibration=calibration,
        metric="accuracy",
        target="host",
        threads=1,
        minutes=2,
        output="runs/own_module",
    )
    for point in result.frontier.points:
        print(f"{point.latency_ms:8.3f} ms  accuracy {point.quality['accuracy']:.3f}  {point.name}")


if __name__ == "__main__":
    main()
