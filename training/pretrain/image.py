"""The image tower behind the frozen stem, matched to the text tower's features of names."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from training.pretrain.names import Names
from training.pretrain.shape import IMAGE_WIDTH, alternating, new_clip, ridge, start_as_mean
from training.pretrain.text import Prompts, TextTower, text_features
from training.pretrain.trainer import Group, Trainer, show
from training.pretrain.views import STEM_CHANNELS, Cache, stem_head


class ImageTower(nn.Module):
    """open_clip's vision transformer from the stem's output on."""

    def __init__(self, clip: CLIP, stem_channels: int) -> None:
        super().__init__()
        visual = clip.visual
        self.stem_proj = nn.Conv2d(stem_channels, IMAGE_WIDTH, 1)
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.ln_pre, self.ln_post = visual.ln_pre, visual.ln_post
        self.transformer = visual.transformer
        self.proj: nn.Parameter = visual.proj

    def pooled(self, stem_map: Tensor) -> Tensor:
        """[B, 1280, 7, 7] to the class token before the last projection [B, 320]."""
        x = self.stem_proj(stem_map).flatten(2).transpose(1, 2)  # [B, 49, 320]
        first = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([first, x], 1) + self.positional_embedding.to(x.dtype)
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0])  # type: ignore[no-any-return]

    def forward(self, stem_map: Tensor) -> Tensor:
        """[B, 1280, 7, 7] to unit features [B, 384]."""
        return F.normalize((self.pooled(stem_map) @ self.proj).float(), dim=1)


USED_AXES = 240  # axes of the stem's projection for the names; the rest is for photos alone
LINEAR_RIDGE = 0.3  # ridge strength of the regression of logits on names
LINEAR_SHARE = 0.5  # weight of its result in an image's target; its names have weight 1.0


@dataclass(frozen=True)
class Lexicon:
    """The possible names of the classes, with the text tower's features of them.

    The first 1,000 rows of `features` [K, 384] are the classes' own names. `aliases` and `kinds`
    hold row numbers for each class; `sizes` is the number of classes that share each name.
    """

    features: Tensor
    aliases: list[list[int]]
    kinds: list[list[int]]
    sizes: list[int]


def make_lexicon(
    tower: TextTower, names: Names, aliases: list[list[str]], kinds: list[list[str]]
) -> Lexicon:
    """`aliases` and `kinds`: the names of each class (names.class_aliases, class_kinds)."""
    classes = names.names[:1000]
    known = set(classes)
    extra = dict.fromkeys(n for row in (*aliases, *kinds) for n in row if n not in known)
    listed = [*classes, *extra]
    at = {name: i for i, name in enumerate(names.names)}
    found = text_features(tower, Prompts(names.names), [at[name] for name in listed])
    place = {name: i for i, name in enumerate(listed)}
    sizes = [0] * len(listed)
    for row in kinds:
        for name in row:
            sizes[place[name]] += 1
    return Lexicon(
        found,
        [[i, *(place[n] for n in row[1:])] for i, row in enumerate(aliases)],
        [[place[n] for n in row] for row in kinds],
        sizes,
    )


def rename(lexicon: Lexicon, generator: torch.Generator) -> Tensor:
    """A random name for each of the 1,000 classes, int64 [1000]: its own, an alias, or a kind.

    Half of the time every class has its own name or an alias. Otherwise some kinds, up to a random
    size, replace the names of all their classes: 'dog' replaces 118.
    """
    draw = torch.rand(1002 + len(lexicon.sizes), generator=generator).tolist()
    limit = 0.0 if draw[0] < 0.5 else math.exp(draw[1] * math.log(250))
    chosen = [d < 0.5 and size <= limit for d, size in zip(draw[1002:], lexicon.sizes, strict=True)]
    out = []
    for at, (aliases, kinds) in enumerate(zip(lexicon.aliases, lexicon.kinds, strict=True)):
        named = [kind for kind in kinds if chosen[kind]]
        spin = draw[2 + at]
        alias = aliases[int(spin / 0.3 * len(aliases))] if spin < 0.3 else aliases[0]
        out.append(named[-1] if named else alias)
    return torch.tensor(out)


def stem_axes(centred: Tensor, target: Tensor) -> Tensor:
    """Which combinations of the stem's channels the tower takes in, [320, 1280].

    The first axes are those that a ridge regression of the target [n, 384] on the centred mean
    features [n, 1280] uses most; the rest are principal axes of the remainder. Each axis is scaled
    by half of what would whiten it.
    """
    weight = ridge(centred, target, 1e-3)  # [1280, 384]
    used = torch.linalg.svd((centred @ weight).T @ centred, full_matrices=False)[2]
    used = torch.linalg.qr(used[:USED_AXES].T)[0].T
    rest = centred - centred @ used.T @ used
    main = torch.linalg.svd(rest, full_matrices=False)[2][: IMAGE_WIDTH - USED_AXES]
    axes = torch.cat([used, main])
    scale = (centred @ axes.T).std(0).clamp(min=1e-4) ** -0.5
    return axes * scale[:, None]


@torch.no_grad()
def start_image(tower: ImageTower, stem: nn.Module, cache: Cache, target: Tensor) -> None:
    """Starts the tower as a ridge regression from the mean stem feature to the target [V, 384].

    The regression is linear, so 6,000 views are enough.
    """
    count = min(6000, len(cache.maps))
    maps = [stem_head(stem, cache.maps[i : i + 250].float()) for i in range(0, count, 250)]
    pooled = torch.cat([m.mean((2, 3)) for m in maps])  # [n, 1280]
    mean = pooled.mean(0)
    projection = stem_axes(pooled - mean, target[:count])
    tokens = (maps[0].flatten(2).transpose(1, 2) - mean) @ projection.T  # [250, 49, 320]
    projection = projection * (0.5 / tokens.std())
    pattern = alternating(IMAGE_WIDTH)  # twice as large as the signal
    tower.stem_proj.weight.copy_(projection[:, :, None, None])
    assert tower.stem_proj.bias is not None
    tower.stem_proj.bias.copy_(pattern - projection @ mean)
    tower.class_embedding.copy_(pattern)
    tower.positional_embedding.mul_(0.3)
    start_as_mean(tower.transformer.resblocks, 1.0)
    states = torch.cat([tower.pooled(m) for m in maps])  # [n, 320]
    tower.proj.copy_(ridge(states, target[:count], 1e-3))


def soft_labels(cache: Cache) -> Tensor:
    """What each view shows, [V, 1000], from the classifier's answer and the label.

    Both have weight 0.5 for small photos, since the classifier is right on 28 % of those; otherwise
    the weights are 0.7 and 0.3.
    """
    seen = F.softmax(cache.logits.float(), 1)
    share = torch.where(cache.small, 0.5, 0.3)[:, None]
    return torch.lerp(seen, F.one_hot(cache.labels, 1000).float(), share).half()


def linear_places(cache: Cache, lexicon: Lexicon) -> Tensor:
    """The position of each view by a regression of its logits on the names' features, [V, 384].

    It is a least-squares fit of the centred logits, with unit rows. Softmax keeps only the first
    few classes. This also keeps the classifier's scores of the others, and so helps with classes
    that no photo here shows: of 50 such photos, among 1,000 names, it gets 24 right, the
    classifier 43.
    """
    names = lexicon.features[:1000]
    gram = names.T @ names + LINEAR_RIDGE * torch.eye(names.shape[1])
    logits = cache.logits.float()
    logits = logits - logits[~cache.drawn].mean(0)
    return F.normalize(logits @ torch.linalg.solve(gram, names.T).T, dim=1)


def paste(maps: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the batch gets a rectangle of another picture's 7 x 7 grid, and its labels' share.

    maps [B, 320, 7, 7]; labels [B, K], any targets that can be mixed by share.
    """
    half = len(maps) // 2
    other = torch.randperm(len(maps), generator=generator)[:half]
    row, column = torch.randint(0, 5, (2,), generator=generator).tolist()
    height, width = torch.randint(2, 6, (2,), generator=generator).tolist()
    rows, columns = slice(row, min(7, row + height)), slice(column, min(7, column + width))
    mixed, mixed_labels = maps.clone(), labels.clone()
    mixed[:half, :, rows, columns] = maps[other][:, :, rows, columns]
    share = (rows.stop - row) * (columns.stop - column) / 49
    mixed_labels[:half] = (1 - share) * labels[:half] + share * labels[other]
    if torch.rand((), generator=generator) < 0.5:
        mixed = mixed.flip(3)
    return mixed, mixed_labels


def likeness_loss(z: Tensor, pooled: Tensor) -> Tensor:
    """KL loss that makes views similar in the tower's features if they are in the stem's.

    z [B, 384] and the stem's mean features [B, 1280] are centred over the batch.
    """
    count = len(z)
    off = ~torch.eye(count, dtype=torch.bool)

    def logits(x: Tensor) -> Tensor:
        x = F.normalize(x - x.mean(0), dim=1)
        return (10 * x @ x.T)[off].view(count, count - 1)

    return F.kl_div(
        F.log_softmax(logits(z), 1),
        F.log_softmax(logits(pooled), 1),
        log_target=True,
        reduction="batchmean",
    )


class ImageLoss:
    """The loss of one batch of views, drawn at random."""

    def __init__(
        self,
        tower: ImageTower,
        scale: nn.Parameter,
        stem: nn.Module,
        cache: Cache,
        lexicon: Lexicon,
    ) -> None:
        self.tower, self.scale, self.stem = tower, scale, stem
        self.cache, self.lexicon = cache, lexicon
        self.soft = soft_labels(cache)
        self.linear = linear_places(cache, lexicon)
        self.batch, self.cosine_weight, self.likeness_weight = 192, 4.0, 1.0

    def __call__(self, generator: torch.Generator) -> Tensor:
        """The loss of one batch; a scalar."""
        at = torch.randint(len(self.soft), (self.batch,), generator=generator)
        known = torch.cat([self.soft[at].float(), self.linear[at]], 1)  # [B, 1000 + 384]
        maps, known = paste(self.cache.maps[at].float(), known, generator)
        labels, linear = known[:, :1000], known[:, 1000:]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                stem_map = stem_head(self.stem, maps)
            z = self.tower(stem_map)
        names = self._names(z, labels, generator)
        target = F.normalize(labels @ self.lexicon.features[:1000], dim=1)
        target = F.normalize(target + LINEAR_SHARE * linear, dim=1)
        near = (1 - (z * target).sum(1)).mean()
        plain = ~self.cache.drawn[at]  # to the stem, all drawings look alike
        pooled = stem_map.float().mean((2, 3))
        alike = likeness_loss(z[plain], pooled[plain])
        loss: Tensor = names + self.cosine_weight * near + self.likeness_weight * alike
        return loss

    def _names(self, z: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy among the classes' names of this step."""
        used, place = torch.unique(rename(self.lexicon, generator), return_inverse=True)
        merged = torch.zeros(len(labels), len(used)).index_add_(1, place, labels)
        logits = self.scale.exp().clamp(max=80) * z @ self.lexicon.features[used].T
        return -(merged * F.log_softmax(logits, 1)).sum(1).mean()


@torch.inference_mode()
def image_features(tower: nn.Module, stem: nn.Module, maps: Tensor) -> Tensor:
    """Half-precision maps [V, 320, 7, 7] to unit features [V, 384]."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = [tower(stem_head(stem, part.float())) for part in torch.split(maps, 250)]
    return torch.cat(parts).clone()


def nearest_mean(z: Tensor, classes: int) -> float:
    """Leave-one-out nearest-mean accuracy by cosine, of features [classes * k, d]."""
    rows = F.normalize(z, dim=1).view(classes, -1, z.shape[1])
    total = rows.sum(1)
    score = torch.einsum("ckd,ed->cke", rows, F.normalize(total, dim=1))
    at = torch.arange(classes)
    alone = F.normalize(total[:, None] - rows, dim=2)
    score[at, :, at] = (rows * alone).sum(2)
    return (score.argmax(2) == at[:, None]).float().mean().item()


def image_figures(
    tower: nn.Module, stem: nn.Module, held: Cache, lexicon: Lexicon
) -> dict[str, float]:
    """On held-out photos: zero-shot by name and by alias, nearest mean, and nearness to target."""
    z = image_features(tower, stem, held.maps)
    tiny = z[held.small]
    ids, answer = torch.unique(held.labels[held.small], return_inverse=True)
    aliased = torch.tensor([lexicon.aliases[i][-1] for i in ids.tolist()])
    kinds = {k for i in ids.tolist() for k in lexicon.kinds[i] if lexicon.sizes[k] >= 20}
    seen = F.softmax(held.logits.float(), 1)
    target = F.normalize(seen @ lexicon.features[:1000], dim=1)
    listed = torch.tensor(sorted(kinds))
    best = listed[(tiny @ lexicon.features[listed].T).argmax(1)].tolist()
    labels = held.labels[held.small].tolist()
    right = [kind in lexicon.kinds[i] for kind, i in zip(best, labels, strict=True)]
    large = (z @ lexicon.features[:1000].T).argmax(1) == held.labels
    return {
        "tiny": ((tiny @ lexicon.features[ids].T).argmax(1) == answer).float().mean().item(),
        "alias": ((tiny @ lexicon.features[aliased].T).argmax(1) == answer).float().mean().item(),
        "kind": sum(right) / len(right),
        "nearest": nearest_mean(tiny, len(ids)),
        "large": large[~held.small].float().mean().item(),
        "cosine": (z * target).sum(1)[~held.small].mean().item(),
    }


def train_image(
    stem: nn.Module, cache: Cache, held: Cache, lexicon: Lexicon, out: Path, steps: int, seed: int
) -> tuple[ImageTower, float]:
    """Trains or loads the image tower and the logits' scale; out/image.pt is the checkpoint."""
    torch.manual_seed(seed)
    tower = ImageTower(new_clip(), STEM_CHANNELS)
    if not (out / "image.pt").exists():
        start_image(tower, stem, cache, linear_places(cache, lexicon))
    scale = nn.Parameter(torch.tensor(math.log(30.0)))
    trained = nn.ParameterDict({"scale": scale})
    model = nn.ModuleDict({"tower": tower, "scale": trained})
    weights = [p for p in tower.parameters() if p.ndim > 1]
    others = [*(p for p in tower.parameters() if p.ndim <= 1), scale]
    groups = [Group(weights, 5e-4, 0.05), Group(others, 5e-4, 0.0)]
    trainer = Trainer(model, groups, steps, out / "image.pt", 0.995)

    def report(average: nn.Module) -> str:
        return show(image_figures(average.tower, stem, held, lexicon))  # type: ignore[arg-type]

    print("start", report(trainer.average), flush=True)
    trainer.run(ImageLoss(tower, scale, stem, cache, lexicon), report, seed, 200)
    average = trainer.average.tower
    assert isinstance(average, ImageTower)
    return average, trainer.average.scale["scale"].exp().item()  # type: ignore[index]
