"""The networks of the bundle ``affect``: one encoder a modality and the late fusion.

Shapes are those of the engine's graph roles. N is the batch; every other axis that a graph of the
bundle has is fixed, so that an exported graph has one dynamic axis only.

Sizes: vision about 1.4 M parameters, audio about 0.25 M, text head about 0.15 M.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

VISION_DIM = 128
AUDIO_DIM = 96
LOG_MEL_RANGE = (-1.6, 4.0)
MINILM_DIM = 384
NGRAM_DIM = 32
TEXT_DIM = MINILM_DIM + NGRAM_DIM


def _conv_block(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


class VisionEncoder(nn.Module):
    """A small VGG after Simonyan & Zisserman 2015, as FER+ was first measured with.

    In inference mode the embedding is the mean over the face and its mirror image, which go
    through as one batch: an expression has no side.

    Input: faces (N, 1, 48, 48) float32, normalised. Output: embedding (N, 128) float32.
    """

    BLOCK = 8  # modules of a block of two convolutions

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        # Two thirds of the multiplications are at 48 and 24 px, a twentieth of the weights: depth
        # and width cost least where pictures are small.
        for width, convolutions in ((32, 2), (64, 2), (128, 3), (256, 2)):
            if layers:
                layers += [nn.MaxPool2d(2), nn.Dropout2d()]
            for _ in range(convolutions):
                layers += _conv_block(channels, width)
                channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout()
        self.project = nn.Linear(2 * channels, VISION_DIM)
        self.drop(0.25)

    def drop(self, share: float) -> None:
        """Let ``share`` of the pooled features fall out in training, and half of it of the maps."""
        for module in self.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = share / 2
        self.dropout.p = share

    def forward(self, faces: Tensor) -> Tensor:
        if self.training:
            return self.embed(faces)
        both = self.embed(torch.cat((faces, faces.flip(3))))
        return both.reshape(2, -1, VISION_DIM).mean(dim=0)

    def early(self) -> nn.Sequential:
        """The blocks at 48 and 24 px, which take more than half of a step's time."""
        return nn.Sequential(*list(self.features)[: 2 * self.BLOCK])

    def embed(self, faces: Tensor) -> Tensor:
        """(N, 1, 48, 48) -> (N, 128) in (-1, 1), faces as they are."""
        maps = self.features(faces)
        pooled = torch.cat((maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))), dim=1)
        embedding: Tensor = torch.tanh(self.project(self.dropout(pooled)))
        return embedding


class AudioEncoder(nn.Module):
    """Convolutions over log-mel, without padding in time: 19 frames in, 1 step of 50 ms out.

    Time kernels 9 (stride 5), 1, 3: the receptive field is 9 + 2 * 5 = 19 frames, 14 before
    the step's own 5, so a hop of 25 frames with 14 before it gives just its own 5 steps and a
    whole clip gives the same steps as hop after hop.

    Input: log-mel (N, 14 + 5 k, 64) float32, normalised. Output: embedding (N, k, 96).
    """

    def __init__(self, mel_bins: int = 64) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, (9, 5), stride=(5, 2), padding=(0, 2), bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, (1, 3), stride=(1, 2), padding=(0, 1), bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 80, (3, 3), stride=(1, 2), padding=(0, 1), bias=False),
            nn.BatchNorm2d(80),
            nn.ReLU(),
        )
        self.project = nn.Conv2d(80, AUDIO_DIM, (1, mel_bins // 8))

    def forward(self, log_mel: Tensor) -> Tensor:
        # How far the quiet between words lies below speech tells the recording room, not the
        # emotion: all of it is cut at one level.
        maps = self.convolutions(log_mel.clamp(*LOG_MEL_RANGE).unsqueeze(1))
        steps: Tensor = torch.tanh(self.project(maps).squeeze(3).transpose(1, 2))
        return steps


class AudioSequence(nn.Module):
    """GRU over a window's audio steps and attention over those that are there.

    Input: audio (N, T, 96), mask (N, T) of 0 and 1. Output: (N, 128). A masked step is replaced
    by a learned vector before the GRU and has no weight in the attention, so what stands there
    cannot change the output. A row with nothing there gives finite values of no meaning.
    """

    HIDDEN = 64

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(AUDIO_DIM))
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(AUDIO_DIM, self.HIDDEN, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * self.HIDDEN, 1)

    def forward(self, audio: Tensor, mask: Tensor) -> Tensor:
        there = mask.unsqueeze(2)
        # `where`, not a product: it also keeps out what is not finite.
        filled = torch.where(there > 0, self.dropout(audio), self.missing)
        states, _ = self.gru(filled)
        score = self.attention(states).masked_fill(there <= 0, -1e4)
        pooled: Tensor = (torch.softmax(score, dim=1) * states).sum(dim=1)
        return pooled


class NgramBag(nn.Module):
    """Mean of the vectors of a line's hashed n-grams.

    Input: buckets (N, B) int64, 0 = padding. Output: (N, 32); zeros where a line has none.
    """

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets + 1, NGRAM_DIM, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.05)
        with torch.no_grad():
            self.table.weight[0] = 0

    def forward(self, buckets: Tensor) -> Tensor:
        count = (buckets > 0).sum(dim=1, keepdim=True).clamp(min=1)
        mean: Tensor = self.table(buckets).sum(dim=1) / count
        return mean


class LateFusion(nn.Module):
    """Late fusion of logits: one contribution a modality and head, plus a bias, sum to the logits.

    A present modality contributes its own centred logits times a learned positive weight, less a
    learned prior; one that is missing or silent contributes nothing (`Combine`). Faces and speech
    have no sentiment labels: their sentiment logits are ``log(softmax(emotion logits) @ table)``
    with the table P(sentiment | emotion) counted on utterances that carry both labels.

    Inputs as the engine's role ``fusion``; see `forward`.
    """

    table: Tensor

    def __init__(
        self, vision_head: nn.Module, audio_sequence: nn.Module, audio_head: nn.Module,
        text_heads: nn.Module, table: Tensor,
    ) -> None:  # fmt: skip
        """
        Args:
            vision_head: (N, 128) -> emotion logits (N, 7).
            audio_sequence: (N, 60, 96), mask (N, 60) -> (N, H).
            audio_head: (N, H) -> emotion logits (N, 7).
            text_heads: (N, 416) -> sentiment (N, 3), emotion (N, 7) logits.
            table: (7, 3), rows sum to 1.
        """
        super().__init__()
        self.vision_head = vision_head
        self.audio_sequence = audio_sequence
        self.audio_head = audio_head
        self.text_heads = text_heads
        self.register_buffer("table", table)
        emotions, sentiments = table.shape
        self.sentiment = Combine(sentiments)
        self.emotion = Combine(emotions)

    def forward(
        self, vision: Tensor, vision_mask: Tensor, audio: Tensor, audio_mask: Tensor,
        text: Tensor, text_mask: Tensor, state: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """
        Args:
            vision: (N, 8, 128); vision_mask: (N, 8).
            audio: (N, 60, 96); audio_mask: (N, 60).
            text: (N, 8, 416); text_mask: (N, 8).
            state: (N, 3) int64: 0 missing, 1 present, 2 silent; video, audio, chat.

        Returns:
            sentiment logits (N, 3) and contributions (N, 3, 3), emotion logits (N, 7) and
            contributions (N, 3, 7).
        """
        video_emotion = masked_mean(self.vision_head(vision), vision_mask)
        audio_emotion = self.audio_head(self.audio_sequence(audio, audio_mask))
        lines_sentiment, lines_emotion = self.text_heads(text.reshape(-1, TEXT_DIM))
        lines = text_mask.shape[1]
        text_sentiment = masked_mean(
            lines_sentiment.reshape(-1, lines, lines_sentiment.shape[1]), text_mask
        )
        text_emotion = masked_mean(
            lines_emotion.reshape(-1, lines, lines_emotion.shape[1]), text_mask
        )
        emotion = torch.stack((video_emotion, audio_emotion, text_emotion), dim=1)
        sentiment = torch.stack(
            (self.derive(video_emotion), self.derive(audio_emotion), text_sentiment), dim=1
        )
        return (*self.sentiment(sentiment, state), *self.emotion(emotion, state))

    def derive(self, emotion_logits: Tensor) -> Tensor:
        """Emotion logits (N, 7) -> sentiment logits (N, 3) through the table."""
        probabilities = torch.softmax(emotion_logits, dim=1) @ self.table
        return torch.log(probabilities.clamp(min=1e-6))


class Combine(nn.Module):
    """One head's weights and prior.

    Present modalities are taken as independent given the class (naive Bayes): each adds its
    centred, weighted logits less the log prior that they already contain, and the bias adds the
    prior once. So one modality alone keeps its own answer, and what is missing or silent adds
    nothing. The two states have one effect because no data here tells them apart.

    The prior is learned where several modalities are heard, and takes up whatever their evidence
    has in common there: it is no answer by itself. With nothing heard the bias is ``unheard``,
    the log of the classes' shares in the data.
    """

    unheard: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.raw_weight = nn.Parameter(torch.full((3,), 0.5413))  # softplus gives 1
        self.prior = nn.Parameter(torch.zeros(classes))
        self.register_buffer("unheard", torch.zeros(classes))

    @property
    def weight(self) -> Tensor:
        """(3,) positive factors of the modalities' logits."""
        return nn.functional.softplus(self.raw_weight)

    def forward(self, logits: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Unimodal logits (N, 3, C), state (N, 3) -> logits (N, C), contributions (N, 3, C)."""
        centred = logits - logits.mean(dim=2, keepdim=True)
        evidence = centred * self.weight.view(1, 3, 1) - self.prior
        # `where`, not a product: an absent modality's logits may be anything.
        there = state.unsqueeze(2) == 1
        contributions = torch.where(there, evidence, torch.zeros_like(evidence))
        heard = there.to(logits.dtype).sum(dim=1) > 0
        bias = torch.where(heard, self.prior, self.unheard)
        return bias + contributions.sum(dim=1), contributions


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(N, T, C), (N, T) of 0 and 1 -> (N, C); zeros where nothing is there."""
    there = mask.unsqueeze(2)
    total = torch.where(there > 0, values, torch.zeros_like(values)).sum(dim=1)
    return total / there.sum(dim=1).clamp(min=1)
