"""Attention of one block, through PyTorch's fused kernel."""

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """An nn.MultiheadAttention's weights, under the same names, in `scaled_dot_product_attention`.

    nn.MultiheadAttention computes the whole matrix of attention on a CPU. The fused kernel keeps a
    part of it in the cache, in any precision.
    """

    def __init__(self, given: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = given.embed_dim, given.num_heads
        self.in_proj_weight, self.in_proj_bias = given.in_proj_weight, given.in_proj_bias
        self.out_proj = given.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attention with nn.MultiheadAttention's signature: [B, Q, d], 2 × [B, T, d] → [B, Q, d].

        Args:
            query: [B, Q, d].
            key: [B, T, d].
            value: the same as `key`.
            need_weights: ignored; the replaced module has it.
            attn_mask: what is added to the logits, [Q, T] or [B, 1, Q, T].
        """
        if query is key:
            parts = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights, d = self.in_proj_weight, self.embed_dim
            into, others = self.in_proj_bias.split((d, 2 * d))
            both = F.linear(key, weights[d:], others).chunk(2, -1)
            parts = (F.linear(query, weights[:d], into), *both)
        return self.out_proj(attended(parts, self.num_heads, attn_mask)), None


def attended(parts: tuple[Tensor, ...], heads: int, mask: Tensor | None) -> Tensor:
    """Attention of projected (q [B, Q, d], k [B, T, d], v [B, T, d]) → [B, Q, d]."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return seen.transpose(1, 2).flatten(2)


def use_fused_attention(blocks: nn.ModuleList) -> None:
    """Puts an `Attention` in the place of each block's nn.MultiheadAttention."""
    for block in blocks:
        if isinstance(block.attn, nn.MultiheadAttention):
            block.attn = Attention(block.attn)
