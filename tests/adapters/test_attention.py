"""The fused attention is nn.MultiheadAttention's, for every way that a tower calls it."""

import pytest
import torch
from torch import Tensor, nn

from adapters.attention import Attention

WIDTH, HEADS, ROWS, TOKENS = 24, 4, 3, 7


@pytest.fixture
def pair() -> tuple[nn.MultiheadAttention, Attention]:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval().requires_grad_(False)
    nn.init.normal_(theirs.in_proj_bias)
    return theirs, Attention(theirs)


def tokens() -> Tensor:
    return torch.randn(ROWS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("causal", [False, True])
def test_all_tokens_see_what_multihead_attention_sees(pair: tuple, causal: bool) -> None:
    theirs, ours = pair
    x, mask = tokens(), None
    if causal:
        mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
    expected, _ = theirs(x, x, x, need_weights=False, attn_mask=mask)
    torch.testing.assert_close(ours(x, x, x, attn_mask=mask)[0], expected)


def test_one_token_a_row_sees_up_to_its_own_place(pair: tuple) -> None:
    theirs, ours = pair
    x, at = tokens(), torch.tensor([6, 2, 0])
    causal = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
    every, _ = theirs(x, x, x, need_weights=False, attn_mask=causal)
    rows = torch.arange(ROWS)
    query = x[rows, at].unsqueeze(1)
    seen, _ = ours(query, x, x, attn_mask=causal[at][:, None, None])
    torch.testing.assert_close(seen.squeeze(1), every[rows, at])


def test_the_weights_keep_their_names(pair: tuple) -> None:
    theirs, ours = pair
    assert ours.state_dict().keys() == theirs.state_dict().keys()
