"""A function that is short, of a module that takes long to import, as those of astronomers do."""

from astropy import units
from astropy.coordinates import SkyCoord


def galactic(lon: float = 266.4, lat: float = -28.9) -> list[float]:
    """Convert a coordinate."""
    place = SkyCoord(lon, lat, unit=units.deg).galactic
    return [float(place.l.deg), float(place.b.deg)]
