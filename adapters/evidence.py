"""Classifies a photo by the photos of a fit: kernel ridge regression around the zero-shot answer.

The adapted names give a first answer p₀. The head corrects it by the residuals of the photos:

    p₀(x) = softmax(τ s x·w)    K_ij = exp(−γ (1 − x_i·x_j))    A = (K + λI)⁻¹ (Y − p₀(X))
    f(x) = p₀(x) + k(x, X) A

x: unit image feature; w: unit text features of the C classes that have photos; s: CLIP's logit
scale; X: the N photos' features; Y: their labels, one-hot. After ProKeR (Bendou et al., CVPR 2025).
It is a closed form, so nothing is trained. The leave-one-out residual of photo i is exact too:
A_i / ((K + λI)⁻¹)_ii.

A name u without photos gets a value from the names alone, plus one offset b:

    g_u(x) = exp(τ s x·w_u) / (Σ_v exp(τ s x·w_v) + ρ Σ_c exp(τ s x·w_c)) + b

v: the requested names without photos; c: the classes with photos. Without the second sum, a list
with one new name would always answer with that name. Above `MOST_PHOTOS` photos, that many of them
are Nyström landmarks, and their coefficients are fitted to all photos.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

TAU, GAMMA, LAMBDA = 0.3, 2.0, 0.1  # one setting, within 0.7 points of the best on two data sets
# Chosen on PACS and tiny_imagenet by `python -m training.protocols.mixed`, for 1 to 50 requested
# names without photos and 1 to 16 photos per class
RHO, OFFSET = 0.5, 0.15  # the weight of names with photos, and the default offset
SHOTS_TO_CHOOSE = 3  # mean photos per class from which on the offset is chosen on the photos
SCALE = 8.0  # default for one photo per class, where no photo can be held out
MOST_PHOTOS = 4_000  # their kernel matrix takes 128 MB in float64 and 1 to 2 s to factor
NO_PHOTOS = -1  # the column of a name without photos
_PARTS = 4  # parts of the classes; each part is left out once to choose the offset
_CHOOSE_FROM = 2_000  # photos used to choose the offset; more take seconds and change nothing
_CHUNK = 4_096  # photos compared with the landmarks at a time
_OFFSETS = tuple(round(-1 + i / 20, 2) for i in range(41))  # f and p₀ are about 0…1
_JITTER = 1e-9  # share of the mean diagonal; near-equal landmarks make the system singular


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The head of one version: float16, or float32 where float16 would change an answer."""

    photos: Tensor  # [M, e], unit features of the photos, or of the landmarks
    coefficients: Tensor  # [M, C], A
    text: Tensor  # [C, e], unit features of the classes' names
    text_scale: float  # τ s
    gamma: float = GAMMA
    offset: float = OFFSET  # added to the answers of names without photos
    scale: float = SCALE  # 1/temperature of the final scores

    def float(self) -> "Evidence":
        """The same head in float32, which is faster for matrix products on a CPU."""
        parts = {name: getattr(self, name).float() for name in ("photos", "coefficients", "text")}
        return replace(self, **parts)


def fit_evidence(
    photos: Tensor, labels: Tensor, text: Tensor, logit_scale: float, most: int = MOST_PHOTOS
) -> Evidence:
    """Solves for the head of a data set.

    Args:
        photos: unit image features, [N, e].
        labels: the class of each, int64 [N] into C classes.
        text: unit features of the classes' names, [C, e].
        logit_scale: s, CLIP's own.
        most: the largest number of photos kept; above it, landmarks are used.

    Returns:
        The head with the default offset and scale. Its tensors are on the CPU.
    """
    x, w = photos.cpu().half().double(), text.cpu().half().double()  # rounded as they are stored
    exact, _ = _head_and_left_out(x, labels.cpu(), w, logit_scale, most)
    parts = {name: getattr(exact, name).half() for name in ("photos", "coefficients", "text")}
    half = replace(exact, **parts)
    same = torch.equal(judge(exact, x).argmax(1), judge(half.float(), x.float()).argmax(1))
    return half if same else replace(half, coefficients=exact.coefficients.float())


def left_out(
    photos: Tensor, labels: Tensor, text: Tensor, logit_scale: float, most: int = MOST_PHOTOS
) -> Tensor:
    """Leave-one-out values f of each photo, computed exactly from one factorisation.

    The estimate is unbiased only if the features were not fitted to the labels, as with the frozen
    CLIP's.

    Args:
        photos: unit image features, [N, e].
        labels: the class of each, int64 [N] into C classes.
        text: unit features of the classes' names, [C, e].
        logit_scale: s, CLIP's own.
        most: the largest number of photos kept; above it, landmarks are used.

    Returns:
        float64 [N, C].
    """
    x, w = photos.cpu().double(), text.cpu().double()
    return _head_and_left_out(x, labels.cpu(), w, logit_scale, most)[1]


def judge(evidence: Evidence, images: Tensor) -> Tensor:
    """f: unit features [B, e] → [B, C], over the classes with photos; in the images' precision."""
    prior = F.softmax(evidence.text_scale * images @ evidence.text.to(images).T, dim=1)
    kernel = _kernel(images, evidence.photos.to(images), evidence.gamma)
    return prior + kernel @ evidence.coefficients.to(images)


def values(evidence: Evidence, images: Tensor, text: Tensor, columns: Tensor) -> Tensor:
    """One value per photo and requested name; the name with the largest value is the answer.

    Args:
        evidence: the head.
        images: unit features, [B, e].
        text: unit features of the requested names, [A, e]. For a class with photos they replace
            the head's own in p₀, since the request may use another prompt.
        columns: the class of each requested name, int64 [A] into C, or `NO_PHOTOS`.

    Returns:
        [B, A]; not probabilities.
    """
    known = columns >= 0
    found = images.new_empty(len(images), len(columns))
    named = evidence.text.to(images).index_copy(0, columns[known], text[known].to(images))
    evidence = replace(evidence, text=named)
    found[:, known] = judge(evidence, images)[:, columns[known]]
    if not known.all():
        found[:, ~known] = by_name(evidence, images, text[~known]) + evidence.offset
    return found


def probabilities(
    evidence: Evidence, images: Tensor, text: Tensor, columns: Tensor, logit_scale: float
) -> Tensor:
    """Scores that sum to 1 over the requested names.

    Args:
        evidence: the head.
        images: unit features, [B, e].
        text: unit features of the requested names, [A, e].
        columns: the class of each requested name, int64 [A] into C, or `NO_PHOTOS`.
        logit_scale: the scale of the cosines if no requested name has photos.

    Returns:
        [B, A].
    """
    if not (columns >= 0).any():
        return F.softmax(logit_scale * images @ text.T, dim=1)
    return F.softmax(evidence.scale * values(evidence, images, text, columns), dim=1)


def choose_offset(
    photos: Tensor, labels: Tensor, text: Tensor, logit_scale: float, seed: int
) -> float | None:
    """Chooses the offset that balances names with and names without photos.

    With one or two photos per class none is chosen: a photo that is left out then misses half of
    its class or all of it, and the offset comes out too low.

    Args:
        photos: unit features that were not fitted to the labels, [N, e]: the frozen CLIP's.
        labels: the class of each, int64 [N] into C classes.
        text: unit features of the classes' names by the same CLIP, [C, e].
        logit_scale: s, CLIP's own.
        seed: the seed of the split of the classes.

    Returns:
        The offset; None where there are fewer than `SHOTS_TO_CHOOSE` photos per class, mean, or
        fewer than four classes.
    """
    if len(labels) < SHOTS_TO_CHOOSE * len(text):
        return None
    return best_offset(photos, labels, text, logit_scale, seed)


def best_offset(
    photos: Tensor,
    labels: Tensor,
    text: Tensor,
    logit_scale: float,
    seed: int,
    rho: float = RHO,
) -> float | None:
    """The offset with the most right answers on the photos.

    Each quarter of the classes is left out once and serves as names without photos. Photos of the
    other classes are classified leave-one-out. The offset with the largest harmonic mean of the
    two accuracies, among all names, is chosen.

    Args and Returns: as `choose_offset`, of any number of photos. `rho`: the weight of the names
        with photos.
    """
    some = balanced(labels.cpu(), _CHOOSE_FROM)
    x, labels, w = photos.cpu()[some].double(), labels.cpu()[some], text.cpu().double()
    if int(labels.bincount().max()) < 2 or len(text) < _PARTS:
        return None
    order = torch.randperm(len(text), generator=torch.Generator().manual_seed(seed))
    offsets = torch.tensor(_OFFSETS, dtype=torch.float64)
    right = torch.zeros(2, len(offsets), dtype=torch.float64)  # with photos, without
    for part in order.chunk(_PARTS):
        out = torch.isin(labels, part)
        if not out.any() or out.all():
            continue
        right += _found(x, labels, w, logit_scale, out, offsets, rho)
    share = right / torch.tensor([[len(labels) * (_PARTS - 1)], [len(labels)]])
    harmonic = 2 * share[0] * share[1] / (share.sum(0) + 1e-12)
    return float(offsets[harmonic.argmax()])


def _found(
    x: Tensor,
    labels: Tensor,
    w: Tensor,
    logit_scale: float,
    out: Tensor,
    offsets: Tensor,
    rho: float,
) -> Tensor:
    """Right answers by offset, for photos of kept classes and of those left `out`, bool [N]."""
    kept, renumbered = labels[~out].unique(return_inverse=True)
    gone = labels[out].unique()
    head, inside = _head_and_left_out(x[~out], renumbered, w[kept], logit_scale, MOST_PHOTOS)
    best_in = torch.cat([inside, judge(head, x[out])]).max(1)
    outside = by_name(head, torch.cat([x[~out], x[out]]), w[gone], rho).max(1)
    true = torch.cat([labels[~out], labels[out]])
    novel = outside.values[:, None] + offsets > best_in.values[:, None]  # [N, offsets]
    right = torch.where(
        novel, (gone[outside.indices] == true)[:, None], (kept[best_in.indices] == true)[:, None]
    )
    inner = int((~out).sum())
    return torch.stack([right[:inner].sum(0), right[inner:].sum(0)]).double()


def by_name(evidence: Evidence, images: Tensor, text: Tensor, rho: float = RHO) -> Tensor:
    """The value g without its offset: unit [B, e], names without photos [U, e] → [B, U]."""
    logits = evidence.text_scale * images @ text.to(images).T
    others = evidence.text_scale * images @ evidence.text.to(images).T
    weight = others.logsumexp(1, keepdim=True) + math.log(rho)
    return torch.exp(logits - torch.logaddexp(logits.logsumexp(1, keepdim=True), weight))


def _kernel(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """[N, e], [M, e] → [N, M]."""
    return torch.exp(-gamma * (1 - x @ y.T))


def _head_and_left_out(
    x: Tensor, labels: Tensor, w: Tensor, logit_scale: float, most: int
) -> tuple[Evidence, Tensor]:
    """The head in float64, and its leave-one-out values of each photo, [N, C]."""
    marks, scale = balanced(labels, most), TAU * logit_scale
    true = F.one_hot(labels, len(w)).double()
    coefficients, wrong = _solve(x, true - F.softmax(scale * x @ w.T, dim=1), marks)
    head = Evidence(photos=x[marks], coefficients=coefficients, text=w, text_scale=scale)
    return head, true - wrong


def balanced(labels: Tensor, most: int) -> Tensor:
    """The rows of all photos, or of about `most`, the same number of each class where it has them.

    Args:
        labels: the class of each photo, int64 [N].
        most: how many rows at most.

    Returns:
        Sorted rows, int64 [min(N, most)].
    """
    if len(labels) <= most:
        return torch.arange(len(labels))
    rank = torch.empty_like(labels)  # of a photo in its class
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        rank[rows] = torch.randperm(len(rows), generator=torch.Generator().manual_seed(int(label)))
    return rank.argsort(stable=True)[:most].sort().values


def _solve(x: Tensor, residuals: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """(A, float64 [M, C]; the leave-one-out residual of each photo, [N, C])."""
    if len(marks) == len(x):
        kernel = _kernel(x, x, GAMMA)
        kernel.diagonal().add_(LAMBDA)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
        coefficients = inverse @ residuals
        return coefficients, coefficients / inverse.diagonal()[:, None]
    return _solve_landmarks(x, residuals, x[marks])


def _solve_landmarks(x: Tensor, residuals: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """The A that minimises |R − K_nm A|² + λ tr(Aᵀ K_mm A), computed in chunks of photos."""
    normal = LAMBDA * _kernel(marks, marks, GAMMA)
    right = torch.zeros(len(marks), residuals.shape[1], dtype=x.dtype)
    for rows, target in zip(x.split(_CHUNK), residuals.split(_CHUNK), strict=True):
        kernel = _kernel(rows, marks, GAMMA)
        normal.addmm_(kernel.T, kernel)
        right.addmm_(kernel.T, target)
    normal.diagonal().add_(_JITTER * normal.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(normal))
    coefficients, wrong = inverse @ right, []
    for rows, target in zip(x.split(_CHUNK), residuals.split(_CHUNK), strict=True):
        kernel = _kernel(rows, marks, GAMMA)
        leverage = (kernel @ inverse * kernel).sum(1, keepdim=True)
        wrong.append((target - kernel @ coefficients) / (1 - leverage).clamp(min=1e-6))
    return coefficients, torch.cat(wrong)
