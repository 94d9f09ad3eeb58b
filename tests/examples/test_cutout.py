"""The cutout example keeps every pixel at its place in the sky, and says in one line why it cannot cut."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from examples.sky import make_sky, sample_files

RA, DEC = 266.4, -28.93


@pytest.fixture(scope="module", params=[sample_files, make_sky])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sample image, and then the one of the sky that the example makes itself."""
    path: Path = request.param(tmp_path_factory.mktemp("sky"))[0]
    return path


@pytest.fixture(scope="module")
def own_sky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_sky(tmp_path_factory.mktemp("own"))


def run(
    directory: Path, image: Path, *options: str, ra: float = RA, dec: float = DEC
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.cutout", str(image), f"--ra={ra}", f"--dec={dec}", *options]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def cut(
    directory: Path, image: Path, *options: str, ra: float = RA, dec: float = DEC
) -> tuple[np.ndarray, WCS]:
    """Run the example and return the cutout's pixels and coordinates."""
    done = run(directory, image, *options, ra=ra, dec=dec)
    assert (done.returncode, done.stderr) == (0, "")
    return opened(directory / "cutout.fits")


def opened(path: Path) -> tuple[np.ndarray, WCS]:
    with fits.open(path) as hdus:
        return np.array(hdus[0].data), WCS(hdus[0].header).celestial


def refusal(directory: Path, image: Path, *options: str, ra: float = RA, dec: float = DEC) -> str:
    """Run the example, which must refuse, and return the line that says why."""
    done = run(directory, image, *options, ra=ra, dec=dec)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert list(directory.glob("cutout.*")) == []
    return done.stderr


@pytest.fixture(scope="module")
def made(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a cutout of 6 arcmin in it."""
    directory = tmp_path_factory.mktemp("made")
    cut(directory, image, "--size=6")
    return directory


def places_in(original: WCS, cutout: WCS, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return where in the original (row, column) the sky of each of the cutout's pixels is."""
    rows, columns = np.indices(shape)
    x, y = original.world_to_pixel(cutout.pixel_to_world(columns, rows))
    return y, x


def test_the_cutout_keeps_the_sky_where_it_was(image: Path, made: Path) -> None:
    pixels, wcs = opened(made / "cutout.fits")
    whole, whole_wcs = opened(image)
    y, x = places_in(whole_wcs, wcs, pixels.shape)
    assert np.abs(y - y.round()).max() < 1e-3
    assert np.abs(x - x.round()).max() < 1e-3
    np.testing.assert_array_equal(pixels, whole[y.round().astype(int), x.round().astype(int)])


def test_the_brightest_star_has_the_same_sky_position_in_the_cutout(image: Path, made: Path) -> None:
    pixels, wcs = opened(made / "cutout.fits")
    whole, whole_wcs = opened(image)
    y, x = places_in(whole_wcs, wcs, pixels.shape)
    inside = np.zeros(whole.shape, dtype=bool)
    inside[y.round().astype(int), x.round().astype(int)] = True

    there = np.unravel_index(np.argmax(np.where(inside, whole, -np.inf)), whole.shape)
    here = np.unravel_index(np.argmax(pixels), pixels.shape)
    apart = wcs.pixel_to_world(*here[::-1]).separation(whole_wcs.pixel_to_world(*there[::-1]))
    assert apart.deg < proj_plane_pixel_scales(whole_wcs).min()


def test_the_cutout_is_a_square_of_the_size_asked_for_with_the_position_in_its_middle(made: Path) -> None:
    pixels, wcs = opened(made / "cutout.fits")
    scale = proj_plane_pixel_scales(wcs)[0] * 60
    assert pixels.shape == (round(6 / scale), round(6 / scale))
    x, y = wcs.world_to_pixel(SkyCoord(RA, DEC, unit="deg"))
    assert abs(x - (pixels.shape[1] - 1) / 2) <= 1
    assert abs(y - (pixels.shape[0] - 1) / 2) <= 1


def test_the_side_is_one_arcminute_unless_told(own_sky: tuple[Path, Path], tmp_path: Path) -> None:
    pixels, wcs = cut(tmp_path, own_sky[0])
    assert pixels.shape == (round(1 / (proj_plane_pixel_scales(wcs)[0] * 60)),) * 2


def test_a_square_over_the_edge_is_trimmed_and_still_in_its_place(image: Path, tmp_path: Path) -> None:
    whole, whole_wcs = opened(image)
    corner = whole_wcs.pixel_to_world(1, 1).icrs
    pixels, wcs = cut(tmp_path, image, "--size=5", ra=corner.ra.deg, dec=corner.dec.deg)
    height, width = pixels.shape
    np.testing.assert_array_equal(pixels, whole[:height, :width])
    assert wcs.pixel_to_world(0, 0).separation(whole_wcs.pixel_to_world(0, 0)).arcsec < 0.01


def test_the_header_keeps_what_it_said_and_tells_how_the_cutout_was_made(image: Path, made: Path) -> None:
    before, after = fits.getheader(image), fits.getheader(made / "cutout.fits")
    for keyword in {"BAND", "BUNIT", "MAGZP", "OBJECT", "DATASET"} & set(before):
        assert after[keyword] == before[keyword]
    history = " ".join(after["HISTORY"])
    assert f"6 arcmin around {RA} {DEC} deg" in history
    assert image.name in history
    assert str(image.parent) not in history


def test_a_preview_is_drawn(made: Path) -> None:
    assert (made / "cutout.png").read_bytes().startswith(b"\x89PNG")


def test_degenerate_axes_are_dropped(own_sky: tuple[Path, Path], tmp_path: Path) -> None:
    flat, _ = cut(tmp_path, own_sky[0])
    pixels, header = fits.getdata(own_sky[0], header=True)
    header.update(
        CTYPE3="FREQ", CRPIX3=1.0, CRVAL3=1.4e9, CDELT3=1e6, CTYPE4="STOKES", CRPIX4=1.0, CRVAL4=1.0
    )
    fits.writeto(tmp_path / "deep.fits", pixels[np.newaxis, np.newaxis], header)
    deep, wcs = cut(tmp_path, tmp_path / "deep.fits")
    np.testing.assert_array_equal(deep, flat)
    assert wcs.naxis == 2
    assert not {"CTYPE3", "CTYPE4", "NAXIS3"} & set(fits.getheader(tmp_path / "cutout.fits"))


@pytest.mark.parametrize("fill", [np.nan, 7.0])
def test_an_image_without_contrast_is_cut_like_any_other(
    fill: float, own_sky: tuple[Path, Path], tmp_path: Path
) -> None:
    pixels, header = fits.getdata(own_sky[0], header=True)
    fits.writeto(tmp_path / "flat.fits", np.full_like(pixels, fill), header)
    blank, _ = cut(tmp_path, tmp_path / "flat.fits")
    np.testing.assert_array_equal(blank, np.full_like(blank, fill))


def test_an_image_in_one_of_the_bands_is_cut(image: Path, tmp_path: Path) -> None:
    cut(tmp_path, image, "--band=J", "--band=K")


def test_an_image_in_another_band_is_refused_by_name(image: Path, tmp_path: Path) -> None:
    said = refusal(tmp_path, image, "--band=J", "--band=H")
    assert "band K" in said
    assert "J or H" in said


def test_an_image_that_does_not_name_its_band_is_refused_when_a_band_is_asked_for(
    own_sky: tuple[Path, Path], tmp_path: Path
) -> None:
    pixels, header = fits.getdata(own_sky[0], header=True)
    del header["BAND"]
    fits.writeto(tmp_path / "unnamed.fits", pixels, header)
    assert "no BAND in its header" in refusal(tmp_path, tmp_path / "unnamed.fits", "--band=K")


@pytest.mark.parametrize(("ra", "dec"), [(RA, DEC + 1), (RA - 180, -DEC), (RA, 90)])
def test_a_position_outside_the_image_is_refused(
    ra: float, dec: float, own_sky: tuple[Path, Path], tmp_path: Path
) -> None:
    assert "lies outside sky.fits" in refusal(tmp_path, own_sky[0], ra=ra, dec=dec)


@pytest.mark.parametrize(("ra", "dec", "size"), [(361, DEC, 1), (RA, -91, 1), (RA, "nan", 1), (RA, DEC, 0)])
def test_a_number_that_makes_no_sense_is_refused(
    ra: float, dec: float, size: float, own_sky: tuple[Path, Path], tmp_path: Path
) -> None:
    said = refusal(tmp_path, own_sky[0], f"--size={size}", ra=ra, dec=dec)
    assert "is no position" in said or "is no size" in said


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"SIMPLE  =                    T"])
def test_a_file_that_is_not_fits_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(content)
    assert "not a FITS file" in refusal(tmp_path, tmp_path / "upload")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path, tmp_path / "nothing.fits")


def test_a_fits_file_cut_short_is_refused(own_sky: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "short.fits").write_bytes(own_sky[0].read_bytes()[:50_000])
    assert "damaged" in refusal(tmp_path, tmp_path / "short.fits")


def test_a_fits_file_without_an_image_of_the_sky_is_refused(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "plain.fits", np.zeros((50, 50)))
    assert "celestial coordinates" in refusal(tmp_path, tmp_path / "plain.fits")


def test_the_stars_of_the_own_sky_lie_where_its_catalogue_says(own_sky: tuple[Path, Path]) -> None:
    pixels, wcs = opened(own_sky[0])
    stars = Table.read(own_sky[1], format="votable")
    x, y = wcs.world_to_pixel(SkyCoord(stars["ra"], stars["dec"]))
    background = np.median(pixels)
    for column, row in zip(x, y, strict=True):
        left, bottom = round(column) - 3, round(row) - 3
        light = np.clip(pixels[bottom : bottom + 7, left : left + 7] - background, 0, None)
        rows, columns = np.indices(light.shape)
        assert left + np.average(columns, weights=light) == pytest.approx(column, abs=1)
        assert bottom + np.average(rows, weights=light) == pytest.approx(row, abs=1)
        assert light[2:5, 2:5].max() == light.max()


def test_the_own_sky_is_the_same_at_every_call(own_sky: tuple[Path, Path], tmp_path: Path) -> None:
    for first, second in zip(own_sky, make_sky(tmp_path), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_the_sky_program_prints_the_paths_of_an_image_and_a_catalogue(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.sky", "here", "--own"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    image, catalogue = (tmp_path / line for line in done.stdout.splitlines())
    assert fits.getheader(image)["BAND"] == "K"
    assert len(Table.read(catalogue, format="votable")) > 50
