"""A FITS image and a catalogue to try the examples on: real ones, or else a small sky of our own.

    python -m examples.sky DIR [--own]

prints the two paths. The sky of our own is the same at every call: a field of separate stars near the
Galactic centre, and the catalogue of the very stars that were painted.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.wcs import WCS

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
WIDTH, HEIGHT, PIXEL = 361, 360, 5 / 3600
STAR_SIGMA, NOISE, BACKGROUND = 1.1, 0.05, 2.0
ALONG = 9
"""How many stars are beside, and above, each other."""


def sample_files(directory: Path) -> tuple[Path, Path]:
    """Return the paths of a FITS image and of a VOTable, made in `directory` if no real ones are at hand."""
    image, catalogue = REAL / "gc_2mass_k.fits", REAL / "spitzer_example_catalog.xml"
    return (image, catalogue) if image.exists() and catalogue.exists() else make_sky(directory)


def make_sky(directory: Path) -> tuple[Path, Path]:
    """Write `sky.fits` and `stars.vot`, the stars in it, into `directory` and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2100)
    wcs = sky_wcs()
    x, y = star_pixels(random)
    flux = 10 ** random.uniform(0.5, 3, x.size)
    ra, dec = wcs.wcs_pix2world(x, y, 0)
    stars = catalogue_of(ra, dec, flux, random)
    stars.write(directory / "stars.vot", format="votable", overwrite=True)
    header = wcs.to_header()
    header.update(BAND="K", BUNIT="mJy/pix", OBJECT="Made-up stars")
    fits.PrimaryHDU(paint(x, y, flux, random), header).writeto(directory / "sky.fits", overwrite=True)
    return directory / "sky.fits", directory / "stars.vot"


def sky_wcs() -> WCS:
    """Return the coordinates of the made-up sky: a tangential projection, north up."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [266.4, -28.93333]
    wcs.wcs.crpix = [(WIDTH + 1) / 2, (HEIGHT + 1) / 2]
    wcs.wcs.cdelt = [-PIXEL, PIXEL]
    wcs.wcs.radesys = "ICRS"
    return wcs


def star_pixels(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel positions (x, y), each well inside its own cell of a grid, so that no two stars blend."""
    column, row = np.meshgrid(np.arange(ALONG), np.arange(ALONG))
    x = (column + random.uniform(0.15, 0.85, column.shape)) * WIDTH / ALONG
    y = (row + random.uniform(0.15, 0.85, row.shape)) * HEIGHT / ALONG
    return x.ravel(), y.ravel()


def paint(x: np.ndarray, y: np.ndarray, flux: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the image: Gaussian stars on a flat, noisy background."""
    columns, rows = np.arange(WIDTH), np.arange(HEIGHT)[:, np.newaxis]
    image = random.normal(BACKGROUND, NOISE, (HEIGHT, WIDTH))
    for star_x, star_y, total in zip(x, y, flux, strict=True):
        distance2 = (columns - star_x) ** 2 + (rows - star_y) ** 2
        image += total / (2 * np.pi * STAR_SIGMA**2) * np.exp(-distance2 / (2 * STAR_SIGMA**2))
    return image.astype(np.float32)


def catalogue_of(ra: np.ndarray, dec: np.ndarray, flux: np.ndarray, random: np.random.Generator) -> Table:
    """Return the stars' catalogue; about every fifth star has no colour."""
    colour = MaskedColumn(random.normal(0.9, 0.4, ra.size), mask=random.random(ra.size) < 0.2)
    stars = Table({"id": np.arange(1, ra.size + 1), "ra": ra, "dec": dec, "flux": flux, "j_k": colour})
    described = {
        "id": (None, "meta.id;meta.main", "Number of the star"),
        "ra": ("deg", "pos.eq.ra;meta.main", "Right ascension (ICRS)"),
        "dec": ("deg", "pos.eq.dec;meta.main", "Declination (ICRS)"),
        "flux": ("mJy", "phot.flux;em.IR.K", "Flux in the K band"),
        "j_k": ("mag", "phot.color;em.IR.J;em.IR.K", "Colour J - K"),
    }
    for name, (unit, ucd, description) in described.items():
        stars[name].unit = unit
        stars[name].description = description
        stars[name].meta["ucd"] = ucd
    return stars


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="sky", description="Print the paths of an image and a catalogue.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write what has to be made")
    parser.add_argument("--own", action="store_true", help="make a sky even where real files are at hand")
    options = parser.parse_args(argv)
    print(*(make_sky if options.own else sample_files)(options.directory), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
