"""How far two places of the sky are from each other."""

from math import atan2, cos, degrees, hypot, radians, sin
from typing import Annotated

from uws.functions import Parameter

RightAscension = Annotated[float, Parameter(unit="deg", ucd="pos.eq.ra", min=0, max=360)]
Declination = Annotated[float, Parameter(unit="deg", ucd="pos.eq.dec", min=-90, max=90)]


def separation(
    ra1: RightAscension, dec1: Declination, ra2: RightAscension, dec2: Declination
) -> dict[str, float]:
    """Angular separation.

    The angle between two positions, in degrees.
    """
    apart, first, second = radians(ra2 - ra1), radians(dec1), radians(dec2)
    across = cos(second) * sin(apart)
    up = cos(first) * sin(second) - sin(first) * cos(second) * cos(apart)
    along = sin(first) * sin(second) + cos(first) * cos(second) * cos(apart)
    return {"degrees": degrees(atan2(hypot(across, up), along))}
