"""The frozen CLIP, cut into lower and upper blocks. The one file that imports open_clip.

Both towers are open_clip's own modules, called block by block. An adapter adds a `Delta` to the
output of a block. Without an adapter the result equals open_clip's, except for rounding in the
last block: it runs only for the token that is read, so its additions have another order.
"""

import copy
import hashlib
import json
import logging
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attention import use_fused_attention
from adapters.classify import prompts
from adapters.config import TowerShape
from adapters.errors import TooLong, UnsupportedModel
from adapters.names import check_distinct
from adapters.pixels import PixelSpec

# (block from 1, its input [B, T, d]) → what an adapter adds to its output, or None for nothing
Delta = Callable[[int, Tensor], Tensor | None]
Precision = Literal["fp32", "bf16"]

_TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

_log = logging.getLogger(__name__)

BUNDLED = "bundled"
_KEPT_PROMPTS, _SHORT_PROMPT = 10_000, 200  # cached prompts; the longest one cached, characters
KEPT_WORDS = 100_000  # words in the tokenizer's cache
_BUNDLED_FILES = Path(__file__).parent / "bundled"
_SUPPORTED = (
    "supported: the bundled CLIP, and open_clip's ViT models, such as ViT-B-32, ViT-B-16, ViT-L-14"
)


class ConvStem(nn.Module):
    """A pretrained convolutional patch embedding: [B, 3, S, S] → [B, width, S/32, S/32].

    Its network stays in float32 in any precision: in bf16 its many layers would move a feature by
    a cosine of 0.003, sixty times as far as both towers' blocks together.
    """

    def __init__(self, timm_name: str, channels: int, width: int) -> None:
        super().__init__()
        self.net = timm.create_model(timm_name, pretrained=False, num_classes=0)
        self.proj = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Patches of pictures: float [B, 3, S, S] → [B, width, S/32, S/32]."""
        features = self.net.forward_features(x)  # type: ignore[operator]
        return self.proj(features.to(self.proj.weight.dtype))  # type: ignore[no-any-return]


class FrozenCLIP:
    """One frozen CLIP: pixels and prompts in, unit features out, any adapter's delta between.

    Its weights lie in the type that they are computed in. Pixels are normalised, and features
    scaled to unit length, in float32; norms compute their statistics in it in any type.

    Attributes:
        name: the model's name, with its pretrained tag.
        fingerprint: SHA-256 of the weights as loaded, in float32, whatever precision they run in.
        device, precision, dtype: where the weights lie, and the type they are in.
        image, text: the shapes of the two towers; embed_dim: the width e of their features.
        logit_scale: 1/τ, the model's own.
    """

    def __init__(
        self,
        model: open_clip.CLIP,
        tokenizer: SimpleTokenizer,
        spec: PixelSpec,
        name: str,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        _check_supported(model, tokenizer)
        self.name, self.spec = name, spec
        self.fingerprint = fingerprint(model)
        self.model = model.eval().requires_grad_(False)
        visual = model.visual.transformer
        self.image = TowerShape(visual.width, len(visual.resblocks))
        self.text = TowerShape(model.transformer.width, len(model.transformer.resblocks))
        self.embed_dim = int(model.visual.output_dim)
        self.context_length = int(model.context_length)
        self.logit_scale = math.exp(float(model.logit_scale))
        self.tokenizer = tokenizer
        self._special = dict(tokenizer.cache)
        self._ids = lru_cache(_KEPT_PROMPTS)(self._tokenized)
        use_fused_attention(visual.resblocks)
        use_fused_attention(model.transformer.resblocks)
        self.move(device, precision)

    def move(self, device: str | torch.device, precision: Precision) -> None:
        """Puts the weights on a device, in the type of a precision; bf16 is rounded for good."""
        self.device, self.precision = torch.device(device), precision
        self.dtype = _TYPES[precision]
        _place(self.model, self.device, self.dtype)
        self._mean = torch.tensor(self.spec.mean, device=self.device).view(3, 1, 1) * 255
        self._std = torch.tensor(self.spec.std, device=self.device).view(3, 1, 1) * 255

    def twin(self, precision: Precision) -> "FrozenCLIP":
        """A copy of this CLIP in another precision, on the same device."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other._ids = lru_cache(_KEPT_PROMPTS)(other._tokenized)
        other.move(self.device, precision)
        return other

    def image_lower(self, pixels: Tensor, first: int) -> Tensor:
        """Pixels to the input of block `first`: uint8 [B, 3, S, S] → [B, T, d]."""
        x = (pixels.to(self.device).float() - self._mean) / self._std
        stem = next(self.model.visual.conv1.parameters())
        x = self.model.visual._embeds(x.to(stem.dtype))
        return _through(self.model.visual.transformer.resblocks, x, range(1, first))

    def image_between(self, tokens: Tensor, first: int, last: int) -> Tensor:
        """The input of image block `first` to the input of block `last`: [B, T, d] → [B, T, d]."""
        return _through(self.model.visual.transformer.resblocks, tokens, range(first, last))

    def image_upper(
        self, tokens: Tensor, first: int, delta: Delta | None = None, after: Tensor | None = None
    ) -> Tensor:
        """The input of block `first` to unit features: [B, T, d] → float32 [B, e].

        Args:
            tokens: the input of block `first`, [B, T, d].
            first: the block, counted from 1.
            delta: what an adapter adds to each block's output; None: nothing.
            after: the frozen output of block `first` for `tokens`, if it was computed before.
        """
        visual = self.model.visual
        at = torch.zeros(tokens.shape[0], dtype=torch.long, device=self.device)  # the class token
        x = _read(visual.transformer.resblocks, tokens, first, at, delta, after)
        pooled, _ = visual._pool(x.unsqueeze(1))
        return _unit(pooled if visual.proj is None else pooled @ visual.proj)

    def text_lower(self, ids: Tensor, first: int) -> Tensor:
        """Token ids to the input of text block `first`: int64 [N, L] → [N, L, d]."""
        model, length = self.model, ids.shape[1]
        x = model.token_embedding(ids.to(self.device)) + model.positional_embedding[:length]
        mask = model.attn_mask[:length, :length]
        return _through(model.transformer.resblocks, x, range(1, first), mask)

    def text_upper(
        self,
        tokens: Tensor,
        ids: Tensor,
        first: int,
        delta: Delta | None = None,
        after: Tensor | None = None,
    ) -> Tensor:
        """The input of text block `first` to unit features: [N, L, d] → float32 [N, e].

        Args:
            tokens: the input of block `first`, [N, L, d].
            ids: the prompts' ids, int64 [N, L].
            first: the block, counted from 1.
            delta: what an adapter adds to each block's output; None: nothing.
            after: as in `image_upper`.
        """
        model, length = self.model, ids.shape[1]
        mask, at = model.attn_mask[:length, :length], self.end_of_text(ids)
        x = _read(model.transformer.resblocks, tokens, first, at, delta, after, mask)
        return _unit(_project(model.ln_final(x), model.text_projection))

    def end_of_text(self, ids: Tensor) -> Tensor:
        """Where each prompt ends: int64 [N, L] → int64 [N], on the device."""
        if self.model.text_pool_type == "eos":
            ids = (ids == self.model.text_eos_id).int()
        return ids.to(self.device).argmax(-1)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Prompts to ids, cut to the longest: int64 [N, L ≤ context].

        Only padding is cut off. The tower is causal and its feature is read at end-of-text, so
        padding has no effect.

        Raises:
            BadClasses: a prompt is longer than the tower's context.
        """
        rows = [self._encode(prompt) for prompt in prompts]
        ids = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids

    def prompt_ids(self, name: str) -> tuple[int, ...]:
        """The token ids of a class name's usual prompt: equal for names that read the same.

        Raises:
            BadClasses: the prompt is longer than the tower's context.
        """
        return self._encode(prompts([name])[0])

    def check_names(self, names: Sequence[str], template: str) -> None:
        """Refuses class names that this model cannot read, or cannot tell apart.

        Args:
            names: class names, each for one class.
            template: the prompt, with `{}` where the name goes.

        Raises:
            BadClasses: two prompts have the same tokens, or a prompt is too long.
        """
        ids = dict(zip(names, map(self._encode, prompts(names, template)), strict=True))
        check_distinct(names, ids.__getitem__)

    def lengths(self, prompts: Iterable[str]) -> list[int]:
        """The number of tokens per prompt, with start and end of text. Raises as `tokenize`."""
        return [len(self._encode(prompt)) for prompt in prompts]

    def _tokenized(self, prompt: str) -> tuple[int, ...]:
        tokenizer = self.tokenizer
        if len(tokenizer.cache) > KEPT_WORDS:  # open_clip's cache grows without a limit
            tokenizer.cache = dict(self._special)
        return (tokenizer.sot_token_id, *tokenizer.encode(prompt), tokenizer.eot_token_id)

    def _encode(self, prompt: str) -> tuple[int, ...]:
        row = self._ids(prompt) if len(prompt) <= _SHORT_PROMPT else self._tokenized(prompt)
        if len(row) > self.context_length:
            raise TooLong(prompt, len(row), self.context_length)
        return row


def load_clip(
    name: str = BUNDLED,
    pretrained: str | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> FrozenCLIP:
    """Loads a frozen CLIP.

    Args:
        name: "bundled", or an open_clip model name.
        pretrained: for an open_clip model: a tag of its hub, a local file, or None for random
            weights (useful only in benchmarks).
        device: the PyTorch device.
        precision: the type of the weights and of what is computed with them: fp32 or bf16.

    Raises:
        UnsupportedModel: unknown name or tag, weights that do not load, unsupported towers.
    """
    if name == BUNDLED:
        model, spec = _load_bundled(_BUNDLED_FILES / "clip-bundled")
        tokenizer: Any = SimpleTokenizer(context_length=model.context_length)
        return FrozenCLIP(model, tokenizer, spec, name, device, precision)
    try:
        quick_gelu = pretrained is not None and trained_with_quick_gelu(name, pretrained)
        model = open_clip.create_model(name, pretrained, force_quick_gelu=quick_gelu)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip raises RuntimeError, FileNotFoundError, HTTP errors, …
        raise UnsupportedModel(
            f"cannot load {name} ({pretrained}): {error}; {_SUPPORTED}"
        ) from error
    full_name = f"{name}/{pretrained or 'random'}"
    return FrozenCLIP(model, tokenizer, _pixel_spec(model), full_name, device, precision)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and float32 bytes of all weights, as 64 hex digits."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_bundled(config: dict[str, Any]) -> open_clip.CLIP:
    """The bundled CLIP's architecture, random weights: open_clip's CLIP behind a `ConvStem`."""
    model = open_clip.CLIP(**config["model_cfg"])
    stem, width = config["conv_stem"], config["model_cfg"]["vision_cfg"]["width"]
    model.visual.conv1 = ConvStem(stem["timm"], stem["channels"], width)
    return model


def trained_with_quick_gelu(name: str, pretrained: str) -> bool:
    """Whether weights want QuickGELU, which no tensor of them tells; open_clip's issue 771.

    A tag says it, and so does the open_clip_config.json beside a file of a Hugging Face snapshot.
    A TorchScript archive is OpenAI's. Of any other file it is unknown: then the name decides,
    which may end in -quickgelu, and a warning says so.
    """
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    file = Path(pretrained)
    if tag or not file.is_file() or name.endswith("-quickgelu"):
        return bool(tag.get("quick_gelu", False))
    config = file.with_name("open_clip_config.json")
    if config.is_file():
        return bool(json.loads(config.read_text())["model_cfg"].get("quick_gelu", False))
    if zipfile.is_zipfile(file) and _is_torchscript(file):
        return True
    _log.warning(
        "%s runs with GELU; if it was trained with QuickGELU, name the model %s-quickgelu",
        pretrained,
        name,
    )
    return False


def _is_torchscript(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(part.split("/")[1:2] == ["code"] for part in archive.namelist())


def _load_bundled(files: Path) -> tuple[open_clip.CLIP, PixelSpec]:
    config = json.loads(files.with_suffix(".json").read_text())
    model = build_bundled(config)
    weights = load_file(files.with_suffix(".safetensors"))
    model.load_state_dict({key: value.to(_full(value)) for key, value in weights.items()})
    pixels = config["preprocess_cfg"]
    spec = PixelSpec(
        pixels["size"], tuple(pixels["mean"]), tuple(pixels["std"]), pixels["interpolation"]
    )
    return model, spec


def _full(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _pixel_spec(model: open_clip.CLIP) -> PixelSpec:
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width or config["resize_mode"] != "shortest":
        raise UnsupportedModel(f"preprocessing {config} is not a shortest-side resize and crop")
    return PixelSpec(height, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])


def _check_supported(model: nn.Module, tokenizer: object) -> None:
    """Adapters read the input of each block, so both towers must be open_clip's own."""
    if not isinstance(model, open_clip.CLIP) or not isinstance(model.visual, VisionTransformer):
        raise UnsupportedModel(f"{type(model).__name__} has other towers; {_SUPPORTED}")
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    if not all(isinstance(block, ResidualAttentionBlock) for block in blocks):
        raise UnsupportedModel(f"its blocks are not ResidualAttentionBlock; {_SUPPORTED}")
    if not isinstance(tokenizer, SimpleTokenizer):
        raise UnsupportedModel(f"its tokenizer is {type(tokenizer).__name__}; {_SUPPORTED}")
    if model.text_pool_type not in ("argmax", "eos") or model.attn_mask is None:
        raise UnsupportedModel(f"its text tower is not read at end-of-text; {_SUPPORTED}")
    if model.visual.pool_type != "tok":
        raise UnsupportedModel(f"its image tower is not read at the class token; {_SUPPORTED}")


def _place(model: open_clip.CLIP, device: torch.device, dtype: torch.dtype) -> None:
    """Moves a model's tensors and casts them, but for a convolutional stem's network."""
    stem = model.visual.conv1
    kept = set(stem.net.modules()) if isinstance(stem, ConvStem) else set()
    for module in model.modules():
        kind = torch.float32 if module in kept else dtype
        module._apply(partial(_moved, device=device, dtype=kind), recurse=False)


def _moved(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _through(
    blocks: nn.ModuleList, x: Tensor, numbers: Iterable[int], mask: Tensor | None = None
) -> Tensor:
    """Runs the numbered blocks (from 1), frozen."""
    for number in numbers:
        x = blocks[number - 1](x, attn_mask=mask)
    return x


def _read(
    blocks: nn.ModuleList,
    x: Tensor,
    first: int,
    at: Tensor,
    delta: Delta | None = None,
    after: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Runs blocks `first`…K, and reads one token a row: [B, T, d], `at` int64 [B] → [B, d].

    A delta reads a block's input and adds to its output. The last block runs only for the token
    that is read, which saves most of its work.
    """
    rows, last = torch.arange(x.shape[0], device=x.device), len(blocks)
    if first > last:
        return x[rows, at]
    for number in range(first, last + 1):
        added = delta(number, x) if delta is not None else None
        if number == first and after is not None:
            x = after
        elif number < last:
            x = blocks[number - 1](x, attn_mask=mask)
        else:
            x = _one_token(blocks[number - 1], x, at, mask)
        if added is not None:  # float32 in a fit
            x = x + (added if x.ndim == 3 else added[rows, at]).to(x.dtype)
    return x if x.ndim == 2 else x[rows, at]


def _one_token(block: ResidualAttentionBlock, x: Tensor, at: Tensor, mask: Tensor | None) -> Tensor:
    """A block's output for the token at `at` of each row: [B, T, d] → [B, d]."""
    rows = torch.arange(x.shape[0], device=x.device)
    if mask is not None:  # one row of the mask for each prompt: [B, 1, 1, T]
        mask = mask[at][:, None, None]
    normed = block.ln_1(x)
    seen = block.attention(normed[rows, at].unsqueeze(1), normed, normed, mask)
    y = x[rows, at] + block.ls_1(seen.squeeze(1))
    return y + block.ls_2(block.mlp(block.ln_2(y)))  # type: ignore[no-any-return]


def _project(pooled: Tensor, projection: nn.Module | Tensor | None) -> Tensor:
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
