"""Names of classes: one form, and no two that the model reads as one."""

import pytest

from adapters.classify import prompts
from adapters.clip import FrozenCLIP
from adapters.errors import BadClasses
from adapters.names import alike, columns_of, normal_name


@pytest.mark.parametrize(
    ("sent", "normal"),
    [
        ("Lo\u0308wenzahn", "Löwenzahn"),  # NFD, as macOS writes folders
        ("sun\u00a0flower", "sun flower"),
        ("sun\u202f\u2009 flower\u3000", "sun flower"),
        ("\u200frose\u200e", "rose"),
        ("\u202arose\u202c", "rose"),
        ("to\u00admato", "tomato"),
        ("\ufeffrose", "rose"),
        ("ro\u200bse", "rose"),
        ("ro\u200dse", "rose"),  # a joiner between Latin letters shapes nothing
        ("rose\u200d", "rose"),
        ("  rose\t", "rose"),
        ("line\u2028line", "line line"),
        ("👩\u200d🌾", "👩\u200d🌾"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("ශ්\u200dරී", "ශ්\u200dරී"),
        ("🏴\U000e0067\U000e0062\U000e007f", "🏴\U000e0067\U000e0062\U000e007f"),
        ("", ""),
        ("\u200b \u00ad", ""),
    ],
)
def test_a_name_has_one_form_whatever_wrote_it(sent: str, normal: str) -> None:
    assert normal_name(sent) == normal
    assert normal_name(normal) == normal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Sunflower", "sunflower"),
        ("sun_flower", "sun flower"),
        (" sunflower", "sunflower"),
        ("Löwenzahn", "Lo\u0308wenzahn"),
        ("to\u00admato", "tomato"),
        ("salt &amp; pepper", "salt & pepper"),
        ("\ufb01g", "fig"),  # the ligature fi
        ("cat\u2019s paw", "cat's paw"),
        ("sun\u00a0flower", "SUN  FLOWER"),
    ],
)
def test_names_are_alike_exactly_when_their_prompts_are_the_same_tokens(
    clip: FrozenCLIP, one: str, other: str
) -> None:
    assert alike([one, "rose", other], clip.prompt_ids) == [(one, other)]
    ids = clip.tokenize(prompts([one, other]))
    assert (ids[0] == ids[1]).all()
    with pytest.raises(BadClasses) as refused:
        clip.check_names([one, "rose", other], "a photo of a {}.")
    assert repr(one) in str(refused.value) and repr(other) in str(refused.value)


@pytest.mark.parametrize("other", ["sun flower", "sunflowers", "sünflower", "sun-flower"])
def test_names_with_other_tokens_are_not_alike(clip: FrozenCLIP, other: str) -> None:
    assert alike(["sunflower", other], clip.prompt_ids) == []


def test_many_alike_names_are_counted_and_a_few_are_named(clip: FrozenCLIP) -> None:
    with pytest.raises(BadClasses, match="and 4 more"):
        clip.check_names(["rose"] * 10, "{}")


def test_words_that_the_tokenizer_keeps_are_bounded(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.clip.KEPT_WORDS", 50)
    for number in range(200):
        clip.prompt_ids(f"zq{number}x")
    assert len(clip.tokenizer.cache) < 100


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["wild cat", "crab"], [1, 0]),
        (["wild_cat", "CRAB", "  wild   cat"], [1, 0, 1]),
        (["dog", "crab\u200b", "cup"], [-1, 0, -1]),
        ([], []),
        (["word " * 200, "cup"], [-1, -1]),
    ],
)
def test_a_name_is_the_class_whose_prompt_reads_the_same(
    clip: FrozenCLIP, names: list[str], columns: list[int]
) -> None:
    assert columns_of(names, ["crab", "wild_cat"], clip.prompt_ids) == columns
