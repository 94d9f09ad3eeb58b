"""The statistics example gives the right numbers for each column, and says in one line why it cannot."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io.votable.exceptions import W03
from astropy.table import MaskedColumn, Table

from examples.sky import make_sky, sample_files

NUMBERS = ["minimum", "maximum", "mean", "median", "standard_deviation"]


@pytest.fixture(scope="module")
def own_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sky(tmp_path_factory.mktemp("own"))[1]


@pytest.fixture(scope="module")
def sample_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_files(tmp_path_factory.mktemp("sample"))[1]


@pytest.fixture(scope="module")
def odd_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a catalogue with one column of every awkward kind."""
    table = Table(
        {
            "mag": MaskedColumn([1.0, 2.0, 4.0, 99.0, np.nan], mask=[0, 0, 0, 1, 0], unit="mag"),
            "number": MaskedColumn([1, 2, 3, 4, -1], mask=[0, 0, 0, 0, 1], meta={"ucd": "meta.number"}),
            "constant": [1e17] * 5,
            "nothing": [np.nan] * 5,
            "limits": [-np.inf, 1.0, 2.0, 3.0, np.inf],
            "costs $5 $^": [1.0, 2.0, 3.0, 4.0, 5.0],
            "name": ["a", "b", "c", "d", "e"],
            "flag": [True, False, True, False, True],
            "pair": np.ones((5, 2)),
        }
    )
    path = tmp_path_factory.mktemp("odd") / "odd.vot"
    with pytest.warns(W03, match="costs"):  # a name that is no XML id
        table.write(path, format="votable")
    return path


def run(directory: Path, catalogue: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.statistics", str(catalogue), *options]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def summary(directory: Path, catalogue: Path, *options: str) -> dict[str, dict[str, Any]]:
    """Run the example and return what it says in JSON, by column."""
    done = run(directory, catalogue, *options)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((directory / "statistics.json").read_text())
    return {column["name"]: column for column in report["columns"]}


def refusal(directory: Path, catalogue: Path, *options: str) -> str:
    """Run the example, which must refuse, and return the line that says why."""
    done = run(directory, catalogue, *options)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert not (directory / "statistics.json").exists()
    return done.stderr


def test_the_numbers_are_those_of_the_catalogue(own_catalogue: Path, tmp_path: Path) -> None:
    flux = np.asarray(Table.read(own_catalogue, format="votable")["flux"])
    found = summary(tmp_path, own_catalogue)["flux"]
    expected = [flux.min(), flux.max(), flux.mean(), np.median(flux), flux.std()]
    assert [found[number] for number in NUMBERS] == pytest.approx(expected)
    assert (found["count"], found["missing"]) == (len(flux), 0)
    assert (found["unit"], found["ucd"]) == ("mJy", "phot.flux;em.IR.K")


def test_every_numeric_column_of_the_sample_is_summarised_in_its_unit(
    sample_catalogue: Path, tmp_path: Path
) -> None:
    table = Table.read(sample_catalogue, format="votable", verify="ignore")
    found = summary(tmp_path, sample_catalogue)
    assert list(found) == [name for name in table.colnames if table[name].dtype.kind in "iuf"]
    for name, column in found.items():
        assert column["count"] + column["missing"] == len(table)
        assert column["minimum"] <= column["median"] <= column["maximum"]
        assert column["unit"] == ("" if table[name].unit is None else str(table[name].unit))


def test_the_table_says_the_same_as_the_json_and_keeps_the_units(own_catalogue: Path, tmp_path: Path) -> None:
    found = summary(tmp_path, own_catalogue)
    rows = Table.read(tmp_path / "statistics.vot", format="votable")
    assert list(rows["name"]) == list(found)
    for row in rows:
        column = found[row["name"]]
        assert [row[number] for number in NUMBERS] == pytest.approx([column[number] for number in NUMBERS])
        assert [row["count"], row["missing"]] == [column["count"], column["missing"]]
        assert [str(row["unit"]), str(row["ucd"])] == [column["unit"], column["ucd"]]


def test_missing_values_are_counted_and_left_out(odd_catalogue: Path, tmp_path: Path) -> None:
    found = summary(tmp_path, odd_catalogue, "--column=mag", "--column=number", "--column=limits")
    assert (found["mag"]["count"], found["mag"]["missing"]) == (3, 2)
    assert [found["mag"][number] for number in NUMBERS[:4]] == pytest.approx([1, 4, 7 / 3, 2])
    assert (found["number"]["count"], found["number"]["minimum"]) == (4, 1)
    assert (found["limits"]["count"], found["limits"]["maximum"]) == (3, 3)


def test_a_column_without_any_value_has_no_numbers(odd_catalogue: Path, tmp_path: Path) -> None:
    found = summary(tmp_path, odd_catalogue, "--column=nothing")["nothing"]
    assert (found["count"], found["missing"]) == (0, 5)
    assert [found[number] for number in NUMBERS] == [None] * 5
    (row,) = Table.read(tmp_path / "statistics.vot", format="votable")
    assert all(np.ma.is_masked(row[number]) or np.isnan(row[number]) for number in NUMBERS)


def test_only_the_columns_asked_for_are_summarised_each_once_and_in_that_order(
    own_catalogue: Path, tmp_path: Path
) -> None:
    options = ["--column=flux", "--column=ra", "--column=flux"]
    assert list(summary(tmp_path, own_catalogue, *options)) == ["flux", "ra"]


def test_columns_that_are_not_numeric_are_left_out_and_histograms_drawn_whatever_the_others_hold(
    odd_catalogue: Path, tmp_path: Path
) -> None:
    found = summary(tmp_path, odd_catalogue, "--bins=200")
    assert list(found) == ["mag", "number", "constant", "nothing", "limits", "costs $5 $^"]
    assert (tmp_path / "histograms.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_column_is_refused_with_the_one_meant_and_those_known(
    own_catalogue: Path, tmp_path: Path
) -> None:
    said = refusal(tmp_path, own_catalogue, "--column=FLUXX")
    assert "did you mean 'flux'?" in said
    assert "id, ra, dec, flux, j_k" in said


def test_a_column_that_is_not_numeric_is_refused_when_asked_for(odd_catalogue: Path, tmp_path: Path) -> None:
    assert "'name' is not numeric" in refusal(tmp_path, odd_catalogue, "--column=name")


def test_a_table_without_numbers_is_refused(tmp_path: Path) -> None:
    Table({"name": ["a", "b"]}).write(tmp_path / "names.vot", format="votable")
    assert "no numeric column" in refusal(tmp_path, tmp_path / "names.vot")


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"<VOTABLE version='1.3'><RESOURCE", b"\x00\xff"]
)
def test_a_file_that_is_not_a_votable_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(content)
    assert "upload cannot be read as a VOTable" in refusal(tmp_path, tmp_path / "upload")


def test_a_votable_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bare.vot").write_text(
        '<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE/></VOTABLE>'
    )
    assert "holds no table" in refusal(tmp_path, tmp_path / "bare.vot")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path, tmp_path / "nothing.vot")
