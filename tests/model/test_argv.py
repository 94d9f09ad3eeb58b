"""Command templates: values arrive whole, groups come and go, braces are braces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uws.model.argv import Template, check_template, fill, option_places, places_in


@pytest.mark.parametrize(
    ("template", "values", "argv"),
    [
        (["prog", "{x}"], {"x": ["1"]}, ["prog", "1"]),
        (["prog", "--x={x}", "{x}{y}"], {"x": ["1"], "y": ["2"]}, ["prog", "--x=1", "12"]),
        (["prog", "{{x}", "{{{{", "}"], {}, ["prog", "{x}", "{{", "}"]),
        (["prog", "{{{x}}"], {"x": ["1"]}, ["prog", "{1}"]),
        (["prog", ["-x", "{x}"], "end"], {"x": []}, ["prog", "end"]),
        (["prog", ["-x", "{x}"], "end"], {"x": ["1"]}, ["prog", "-x", "1", "end"]),
        (["prog", ["-x", "{x}"]], {"x": ["1", "2"]}, ["prog", "-x", "1", "-x", "2"]),
        (["prog", ["{x}={y}"]], {"x": ["1", "2"], "y": ["z"]}, ["prog", "1=z", "2=z"]),
        (["prog", ["{x}={y}"]], {"x": ["1"], "y": []}, ["prog"]),
        (["prog", ["-v", "--"]], {}, ["prog", "-v", "--"]),
        (["prog", ""], {}, ["prog", ""]),
        (["prog", "{x}"], {"x": [""]}, ["prog", ""]),
        (["prog", ["{x}"]], {"x": [""]}, ["prog", ""]),
    ],
)
def test_templates_are_filled(template: Template, values: dict[str, list[str]], argv: list[str]) -> None:
    assert fill(template, values) == argv


@given(st.text(), st.lists(st.text(), max_size=4))
def test_any_text_arrives_whole_in_the_place_it_is_for(text: str, several: list[str]) -> None:
    """Braces, quotes, blanks and names of other places in a value mean nothing."""
    template: Template = ["prog", "{x}", "--x={x}!", ["-m", "{many}"], "end"]
    groups = [argument for value in several for argument in ("-m", value)]
    assert fill(template, {"x": [text], "many": several}) == ["prog", text, f"--x={text}!", *groups, "end"]


def test_a_value_that_looks_like_a_place_is_not_filled() -> None:
    assert fill(["prog", "{x}"], {"x": ["{y}{{"], "y": ["no"]}) == ["prog", "{y}{{"]


def test_the_places_of_an_argument_are_found() -> None:
    assert places_in("{a}-{{b}-{c_1}") == ["a", "c_1"]
    for wrong in ("{", "{}", "{ a}", "{1}", "{a b}", "{a!r}", "x{"):
        with pytest.raises(ValueError, match=r"write \{\{ for a brace itself"):
            places_in(wrong)


@pytest.mark.parametrize(
    ("template", "place", "mistake"),
    [
        ([], "", "expected the program to run"),
        ([["prog"]], "[0]", "expected the program to run"),
        ([""], "[0]", "expected the program to run"),
        (["prog", "{on}"], "[1]", "there is no parameter on (did you mean one?)"),
        (["prog", "{"], "[1]", "a brace without a parameter's name"),
        (["prog", "a\0b"], "[1]", "cannot hold the character U+0000"),
        (["prog", "{maybe}"], "[1]", "maybe may have no value: put the argument into a list of its own"),
        (["prog", "{many}"], "[1]", "many takes several values: put the argument into a list of its own"),
        (["prog", ["x", "{nothing}"]], "[1][1]", "there is no parameter nothing"),
        (["prog", ["{many}", "{more}"]], "[1]", "only one of many, more can be repeated in a list"),
    ],
)
def test_a_mistake_is_told_with_its_place(template: Template, place: str, mistake: str) -> None:
    mistakes = list(check_template(template, single={"one"}, optional={"maybe"}, multiple={"many", "more"}))
    assert [found_at for found_at, _ in mistakes] == [place]
    assert mistake in mistakes[0][1]


def test_a_sound_template_has_no_mistakes() -> None:
    template: Template = ["prog", "{one}", ["{maybe}", "{one}"], ["{many}", "{maybe}"], ["-q"]]
    assert not list(check_template(template, single={"one"}, optional={"maybe"}, multiple={"many"}))


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (["prog", "{x}", "{y}.txt", "{x}{y}"], [("[1]", "x"), ("[2]", "y"), ("[3]", "x")]),
        (["prog", "--x={x}", "./{x}", "{{{x}"], []),
        (["prog", "-o", "{x}"], [("[2]", "x")]),
        (["prog", "{x}", "--", "{y}", ["{z}"]], [("[1]", "x")]),
        (["prog", ["-o", "{x}"], ["--", "{y}"]], [("[1][1]", "x")]),
        (["prog", ["--", "{y}"], "{x}"], [("[2]", "x")]),
        (["prog", "--{x}", "--=", "{x}"], [("[3]", "x")]),
    ],
)
def test_places_are_found_whose_values_can_be_taken_for_options(
    template: Template, found: list[tuple[str, str]]
) -> None:
    assert list(option_places(template)) == found
