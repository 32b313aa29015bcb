"""Wire values as anybody may see them: what a household's meter shows is null.

It is for those alone who may ask `energy_getMeterReadings`. A client reads these as plain JSON.
"""

from __future__ import annotations

from typing import Annotated, Any

from gridtokenx.answers.shapes import Mask, Rule
from gridtokenx.chain.block import Event
from gridtokenx.chain.transaction import Payload
from gridtokenx.primitives.errors import ErrorCode
from gridtokenx.registry.model import Meter

_REGISTERS = ("import_wh_cum", "export_wh_cum")
READINGS = Mask(
    hidden={
        "meter_reading": _REGISTERS,
        "meter": _REGISTERS,
        "register_meter": _REGISTERS,
        "replace_meter": tuple(
            f"{device}_{one}" for device in ("old", "new") for one in _REGISTERS
        ),
        "retire_meter": _REGISTERS,
        "reinstate_meter": _REGISTERS,
        "reading_accepted": ("import_wh", "export_wh", "deliverable_wh", "carbon_ucr"),
        "reading_refused": ("detail",),  # It names what registers showed; the reason does not.
        "energy_consumed": ("energy_wh",),
    },
    added={"reading_refused": {"reason": lambda event: ErrorCode(event.code).reason}},
)

ShownPayload = Annotated[
    Any, Rule("the command; what a meter measured is null", shows=Payload, mask=READINGS)
]
ShownEvents = Annotated[
    Any, Rule("what it did; what a meter measured is null", shows=tuple[Event, ...], mask=READINGS)
]
ShownMeter = Annotated[
    Any, Rule("the meter; what it showed at first is null", shows=Meter, mask=READINGS)
]
ShownMeters = Annotated[
    Any, Rule("meters; what they showed at first is null", shows=tuple[Meter, ...], mask=READINGS)
]
