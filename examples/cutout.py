"""Cut a square around a sky position out of a FITS image: an example service.

    python -m examples.cutout IMAGE --ra=DEG --dec=DEG [--size=ARCMIN] [--band=J|H|K]...

Writes `cutout.fits` and `cutout.png` into the current directory. A square that reaches over the edge of the
image is trimmed there: no pixel is invented. Exit status 1, with one line on stderr, when there is nothing
to cut.
"""

import argparse
import math
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import astropy
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.visualization import AsinhStretch, ImageNormalize, ZScaleInterval
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib.figure import Figure

WCS_CARD = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME)\d+[A-Z]?"
    r"|(CD|PC|PV|PS)\d+_\d+[A-Z]?"
    r"|[AB]P?_(ORDER|DMAX|\d+_\d+)"
    r"|(WCSAXES|WCSNAME|LONPOLE|LATPOLE|RADESYS|EQUINOX)[A-Z]?"
)
AXIS_NAMES = {
    "RA": "Right ascension",
    "DEC": "Declination",
    "GLON": "Galactic longitude",
    "GLAT": "Galactic latitude",
}
STALE_CARDS = ("BLANK", "CHECKSUM", "DATASUM", "DATAMIN", "DATAMAX")


class CutoutError(Exception):
    """There is nothing to cut; the message says why, in one line."""


@dataclass(frozen=True)
class Image:
    """A two-dimensional image of the sky: pixels (row, column), header and celestial coordinates."""

    name: str
    pixels: np.ndarray
    header: fits.Header
    wcs: WCS


def read_image(path: Path) -> Image:
    """Return the first celestial image of a FITS file, its degenerate axes dropped."""
    try:
        # A file object rather than a name: astropy would fetch a name that looks like a URL.
        with path.open("rb") as file, fits.open(file) as hdus:
            for hdu in (hdu for hdu in hdus if hdu.is_image and hdu.header["NAXIS"] > 1):
                wcs = WCS(hdu.header).celestial
                if wcs.has_celestial and hdu.data.size == math.prod(wcs.array_shape):
                    # Reading the pixels also takes the cards that say how they were scaled out of the header.
                    pixels = np.array(hdu.data).reshape(wcs.array_shape)
                    header = hdu.header.copy()
                    if "BAND" in hdus[0].header:
                        header.setdefault("BAND", hdus[0].header["BAND"])
                    return Image(path.name, pixels, header, wcs)
    except OSError as error:
        reason = error.strerror or "it is not a FITS file"
        raise CutoutError(f"{path.name} cannot be read: {reason}") from error
    except (AssertionError, TypeError, ValueError, fits.VerifyError) as error:
        reason = " ".join(str(error).split())
        raise CutoutError(f"{path.name} is damaged or of an unknown kind: {reason}") from error
    raise CutoutError(f"{path.name} holds no two-dimensional image with celestial coordinates")


def check_band(image: Image, bands: list[str]) -> None:
    """Refuse an image that was not taken in one of `bands`; an empty list allows all."""
    if not bands:
        return
    wanted = " or ".join(bands)
    if "BAND" not in image.header:
        raise CutoutError(f"{image.name} has no BAND in its header, so it cannot be told to be {wanted}")
    band = str(image.header["BAND"]).strip()
    if band.upper() not in (name.upper() for name in bands):
        raise CutoutError(f"{image.name} was taken in band {band}, not in {wanted}")


def cut(image: Image, ra: float, dec: float, size: float) -> Cutout2D:
    """Return the square of `size` arcmin around `ra`, `dec` (ICRS, degrees), trimmed at the image's edge."""
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise CutoutError(f"ra={ra} dec={dec} is no position: ra is 0 to 360 and dec -90 to 90 degrees")
    if not 0 < size < math.inf:
        raise CutoutError(f"size={size} is no size: it must be more than 0 arcmin")
    height, width = image.pixels.shape
    position = SkyCoord(ra, dec, unit="deg", frame="icrs")
    try:
        x, y = (float(value) for value in image.wcs.world_to_pixel(position))
    except NoConvergence:
        x = y = math.nan
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        raise CutoutError(f"ra={ra} dec={dec} lies outside {image.name}")
    scale_x, scale_y = proj_plane_pixel_scales(image.wcs) * 60
    sides = max(1, round(size / scale_y)), max(1, round(size / scale_x))
    return Cutout2D(image.pixels, (x, y), sides, wcs=image.wcs, mode="trim", copy=True)


def cutout_header(image: Image, cutout: Cutout2D, what: str) -> fits.Header:
    """Return the image's header with the cutout's coordinates in place of its own, and a HISTORY."""
    header = image.header.copy()
    for keyword in {key for key in header if WCS_CARD.fullmatch(key)}:
        del header[keyword]
    for keyword in STALE_CARDS:
        header.remove(keyword, ignore_missing=True)
    header.update(cutout.wcs.to_header(relax=True))
    (bottom, top), (left, right) = cutout.bbox_original
    header.add_history(f"{what} (ICRS), cut with astropy {astropy.__version__}")
    header.add_history(f"from {image.name!a}, pixels [{left + 1}:{right + 1},{bottom + 1}:{top + 1}]")
    return header


def stretch(pixels: np.ndarray) -> ImageNormalize:
    """Return a grey scale that is linear over the background and logarithmic from there to the stars."""
    finite = pixels[np.isfinite(pixels)].astype(float)
    low, faint = ZScaleInterval().get_limits(finite) if finite.size else (0.0, 1.0)
    faint = faint if faint > low else low + 1
    bright = max(faint, np.percentile(finite, 99.5)) if finite.size else faint
    return ImageNormalize(vmin=low, vmax=bright, stretch=AsinhStretch((faint - low) / (bright - low)))


def draw(cutout: Cutout2D, header: fits.Header, title: str, path: Path) -> None:
    """Draw the cutout with sky coordinates, faint and bright sources both visible."""
    figure = Figure(figsize=(7, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot(projection=cutout.wcs)
    shown = axes.imshow(cutout.data, origin="lower", cmap="inferno", norm=stretch(cutout.data))
    axes.coords.grid(color="white", alpha=0.25, linestyle=":")
    kinds = (ctype[:4].strip("-") for ctype in cutout.wcs.wcs.ctype)
    xlabel, ylabel = (AXIS_NAMES.get(kind, kind) for kind in kinds)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    figure.colorbar(shown, ax=axes).set_label(str(header.get("BUNIT", "pixel value")), parse_math=False)
    figure.savefig(path)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="cutout", description="Cut a square out of a FITS image.")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="FITS image with celestial coordinates")
    parser.add_argument("--ra", type=float, required=True, metavar="DEG", help="right ascension (ICRS)")
    parser.add_argument("--dec", type=float, required=True, metavar="DEG", help="declination (ICRS)")
    parser.add_argument("--size", type=float, default=1.0, metavar="ARCMIN", help="side (default 1)")
    parser.add_argument("--band", action="append", default=[], metavar="J|H|K", help="required band")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = arguments(argv)
    # Remarks about somebody's header would hide the one line that matters when something fails.
    astropy.log.setLevel("ERROR")
    warnings.simplefilter("ignore")
    try:
        image = read_image(options.image)
        check_band(image, options.band)
        cutout = cut(image, options.ra, options.dec, options.size)
    except CutoutError as error:
        print(f"cutout: {error}", file=sys.stderr)
        return 1
    what = f"{options.size:g} arcmin around {options.ra} {options.dec:+} deg"
    header = cutout_header(image, cutout, what)
    hdu = fits.PrimaryHDU(cutout.data, header)
    hdu.writeto("cutout.fits", overwrite=True, output_verify="silentfix+ignore")
    draw(cutout, header, what, Path("cutout.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
