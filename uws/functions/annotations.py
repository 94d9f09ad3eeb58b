"""What the author of a function writes into its annotations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from uws.model import CircleParameter, IntervalParameter, PointParameter, PolygonParameter
from uws.model.units import Size


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """What a type does not say of a parameter: ``Annotated[float, Parameter(unit="deg", min=0)]``.

    The fields are the keys of a parameter's table in a declaration, and mean the same.
    """

    unit: str | None = None
    ucd: str | None = None
    description: str | None = None
    min: float | str | datetime | None = None
    max: float | str | datetime | None = None
    pattern: str | None = None
    max_length: int | None = None
    max_size: Size | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were given, by name."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in fields.items() if value is not None}


Interval = Annotated[tuple[float, float], IntervalParameter]
"""Two numbers, the first not above the second; either may be infinite (DALI 1.1 section 3.3.4)."""
Point = Annotated[tuple[float, float], PointParameter]
"""Longitude and latitude in degrees (DALI 1.1 section 3.3.5)."""
Circle = Annotated[tuple[float, float, float], CircleParameter]
"""Longitude, latitude and radius in degrees (DALI 1.1 section 3.3.6)."""
Polygon = Annotated[tuple[float, ...], PolygonParameter]
"""Longitudes and latitudes of at least three vertices in degrees (DALI 1.1 section 3.3.7)."""
