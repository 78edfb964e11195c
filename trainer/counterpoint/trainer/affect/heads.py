"""The heads of a line: an answer for each style of writing, mixed by a guess of the style.

The sets do not mean the same by a label. A question is mostly surprise in GoEmotions and mostly
neutral in MELD, and what is sure there is doubtful here. One head for all of them must go between.
So each set with a label has a linear answer of its own, and a line's answer is their mixture, a
mixture of experts (Jacobs, Jordan, Nowlan & Hinton 1991) whose gate is trained on where the lines
come from. A chat line that could be of either style gets an answer between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from counterpoint.trainer.labels import EMOTION, SENTIMENT
from counterpoint.trainer.models import TEXT_DIM

STYLES: Final = ("comment", "dialogue", "tweet")
STYLE_OF: Final = {
    "goemotions": "comment",
    "meld": "dialogue",
    "semeval": "tweet",
    "tweeteval": "tweet",
    "tweeteval_emotion": "tweet",
}
EMOTION_STYLES: Final = ("comment", "dialogue")
"""Those with lines of all seven emotions. TweetEval's have three of them: no answer of its own."""
SENTIMENT_STYLES: Final = ("dialogue", "tweet")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What the heads say before it is mixed; all float32.

    Fields:
        hidden: (N, H).
        style: (N, 3) logits in the order of `STYLES`.
        sentiment: (N, 2, 3) logits of `SENTIMENT_STYLES`.
        emotion: (N, 2, 7) logits of `EMOTION_STYLES`.
    """

    hidden: Tensor
    style: Tensor
    sentiment: Tensor
    emotion: Tensor


class StyleHeads(nn.Module):
    """(N, 416) embeddings -> log-probabilities: sentiment (N, 3), emotion (N, 7)."""

    HIDDEN = 384

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        # The halves of the embedding differ in scale by a power of ten.
        self.scale = nn.BatchNorm1d(TEXT_DIM)
        self.hidden = nn.Linear(TEXT_DIM, self.HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.style = nn.Linear(self.HIDDEN, len(STYLES))
        self.sentiment = nn.Linear(self.HIDDEN, len(SENTIMENT_STYLES) * len(SENTIMENT))
        self.emotion = nn.Linear(self.HIDDEN, len(EMOTION_STYLES) * len(EMOTION))

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return mix(self.answers(embedding))

    def answers(self, embedding: Tensor) -> Answers:
        """(N, 416) -> the answer of each style."""
        hidden = self.dropout(torch.relu(self.hidden(self.dropout(self.scale(embedding)))))
        return Answers(
            hidden=hidden,
            style=self.style(hidden),
            sentiment=self.sentiment(hidden).reshape(-1, len(SENTIMENT_STYLES), len(SENTIMENT)),
            emotion=self.emotion(hidden).reshape(-1, len(EMOTION_STYLES), len(EMOTION)),
        )

    @torch.no_grad()
    def cool(self, head: str, style: str, temperature: float) -> None:
        """Divide the logits that ``style`` has in ``head`` by ``temperature``, for good."""
        styles, layer, classes = {
            "sentiment": (SENTIMENT_STYLES, self.sentiment, len(SENTIMENT)),
            "emotion": (EMOTION_STYLES, self.emotion, len(EMOTION)),
        }[head]
        first = styles.index(style) * classes
        layer.weight[first : first + classes] /= temperature
        layer.bias[first : first + classes] /= temperature


def mix(answers: Answers) -> tuple[Tensor, Tensor]:
    """Log-probabilities of sentiment (N, 3) and emotion (N, 7): P(y) = sum P(style) P(y | style),
    over the styles that know the label."""
    return (
        _mixture(answers.style, answers.sentiment, SENTIMENT_STYLES),
        _mixture(answers.style, answers.emotion, EMOTION_STYLES),
    )


def _mixture(style: Tensor, logits: Tensor, styles: tuple[str, ...]) -> Tensor:
    columns = [STYLES.index(name) for name in styles]
    gate = torch.log_softmax(torch.stack([style[:, column] for column in columns], dim=1), dim=1)
    return torch.logsumexp(gate.unsqueeze(2) + torch.log_softmax(logits, dim=2), dim=1)
