"""The text tower, matched to the names' places."""

from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from training.pretrain.names import Names
from training.pretrain.shape import TEXT_WIDTH, alternating, new_clip, start_as_mean
from training.pretrain.trainer import Group, Trainer, show

TEMPLATE = "a photo of a {}."
# The usual template appears three times, since serving uses it.
TEMPLATES = (TEMPLATE,) * 3 + (
    "{}",
    "a photo of a {}",
    "a photo of the {}.",
    "a picture of a {}.",
    "a bad photo of a {}.",
    "a blurry photo of a {}.",
    "a close-up photo of a {}.",
    "a drawing of a {}.",
    "a sketch of a {}.",
    "a painting of a {}.",
    "a cartoon {}.",
    "art of the {}.",
)


class TextTower(nn.Module):
    """open_clip's text tower on prompts that are cut to the longest of the batch."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.mask: Tensor
        self.register_buffer("mask", clip.attn_mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [B, N] to unit features [B, 384]."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]  # [B, N, 256]
        x = self.transformer(x, attn_mask=self.mask[:length, :length])
        x = x[torch.arange(len(x)), tokens.argmax(1)]
        return F.normalize((self.ln_final(x) @ self.text_projection).float(), dim=1)


class Prompts:
    """Caches the BPE tokens of names and templates; a prompt joins the tokens of its parts."""

    def __init__(self, names: list[str]) -> None:
        self.tokenizer = SimpleTokenizer(context_length=32)
        self.names = [self.tokenizer.encode(name)[:18] for name in names]
        self.templates = {t: self._split(t) for t in TEMPLATES}

    def _split(self, template: str) -> tuple[list[int], list[int]]:
        before, after = template.split("{}")
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        return [start, *self.tokenizer.encode(before)], [*self.tokenizer.encode(after), end]

    def __call__(self, chosen: list[tuple[int, str]]) -> Tensor:
        """(place, template) pairs to token ids, int64 [B, longest], padded with 0."""
        rows = []
        for at, template in chosen:
            before, after = self.templates[template]
            rows.append(torch.tensor(before + self.names[at] + after))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def usual(self, places: list[int]) -> Tensor:
        """Ids of the usual prompt of each name, int64 [N, L]."""
        return self([(at, TEMPLATE) for at in places])


@torch.inference_mode()
def text_features(tower: nn.Module, prompts: Prompts, places: list[int]) -> Tensor:
    """[len(places), 384] under the usual template."""
    parts = [places[i : i + 500] for i in range(0, len(places), 500)]
    return torch.cat([tower(prompts.usual(part)) for part in parts]).clone()


@torch.no_grad()
def start_text(tower: TextTower, names: Names) -> None:
    """Initialises token embeddings as the tokens' places on their 256 principal axes.

    The output projection maps them back to 384 dimensions.
    """
    torch.manual_seed(0)
    _, _, axes = torch.pca_lowrank(names.tokens[:20000], q=TEXT_WIDTH, center=False, niter=3)
    embedded = names.tokens @ axes  # [49408, 256]
    tower.token_embedding.weight.copy_(embedded / embedded.std() * 0.1)
    tower.token_embedding.weight[-2:] = 0  # start and end of text
    for word in ("a", "photo", "of", "."):
        tower.token_embedding.weight[SimpleTokenizer().encode(word)] *= 0.1
    pattern = alternating(TEXT_WIDTH)
    tower.positional_embedding.mul_(0.3).add_(0.2 * pattern)
    start_as_mean(tower.transformer.resblocks, 6.0)  # of some eight tokens, one or two are the name
    back = axes.T * TEXT_WIDTH**-0.5
    tower.text_projection.copy_(back - pattern[:, None] * (pattern @ back) / TEXT_WIDTH)


TEXT_BATCH = {"classes": 48, "related": 16, "words": 64, "wordnet": 112, "pairs": 16}


def _draw_text(names: Names, generator: torch.Generator) -> list[tuple[int, str]]:
    chosen: list[tuple[int, str]] = []
    for group, count in TEXT_BATCH.items():
        members = names.groups[group]
        for at in torch.randint(len(members), (count,), generator=generator).tolist():
            template = int(torch.randint(len(TEMPLATES), (), generator=generator))
            chosen.append((members[at], TEMPLATES[template]))
    return chosen


def text_loss(
    tower: TextTower, prompts: Prompts, names: Names, generator: torch.Generator
) -> Tensor:
    """The distance to the names' places, plus a similarity loss over batch and class places."""
    chosen = _draw_text(names, generator)
    target = names.places[[at for at, _ in chosen]]  # [B, 384]
    with torch.autocast("cpu", torch.bfloat16):
        z = tower(prompts(chosen))
    near = 2 * (1 - (z * target).sum(1)).mean()
    count = TEXT_BATCH["classes"]
    classes = names.places[:1000]
    batch = F.cross_entropy(30 * z @ target.T, F.softmax(30 * target @ target.T, 1))
    soft = F.softmax(30 * target[:count] @ classes.T, 1)
    loss: Tensor = near + 0.3 * batch + 0.3 * F.cross_entropy(30 * z[:count] @ classes.T, soft)
    return loss


def text_figures(tower: nn.Module, prompts: Prompts, names: Names) -> dict[str, float]:
    """Mean cosines to the places learnt and to bare MiniLM, on names seen and never seen."""
    found = {}
    for group in ("classes", "held_words", "held_pairs"):
        places = names.groups[group]
        z = text_features(tower, prompts, places)
        found[f"{group} cosine"] = (z * names.places[places]).sum(1).mean().item()
        found[f"{group} cosine to bare"] = (z * names.plain[places]).sum(1).mean().item()
    return found


def train_text(names: Names, out: Path, steps: int, seed: int) -> TextTower:
    """Trains or loads the text tower; out/text.pt is the checkpoint and the result."""
    torch.manual_seed(seed)
    tower = TextTower(new_clip())
    start_text(tower, names)
    prompts = Prompts(names.names)
    table = tower.token_embedding.weight
    others = [p for p in tower.parameters() if p is not table]
    groups = [Group([table], 5e-4, 0.0), Group(others, 8e-4, 0.01)]
    trainer = Trainer(tower, groups, steps, out / "text.pt", 0.998)

    def report(average: nn.Module) -> str:
        return show(text_figures(average, prompts, names))

    trainer.run(lambda g: text_loss(tower, prompts, names, g), report, seed, 250)
    average = trainer.average
    assert isinstance(average, TextTower)
    return average


def load_text(out: Path) -> TextTower:
    """The trained text tower, from its last checkpoint."""
    tower = TextTower(new_clip())
    tower.load_state_dict(torch.load(out / "text.pt", weights_only=True)["average"])
    return tower.eval()
