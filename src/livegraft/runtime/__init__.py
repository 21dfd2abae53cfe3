# SPDX-License-Identifier: GPL-2.0-or-later
"""Live patches on the running kernel: load, unload, follow, and say beforehand how that would go.

Python's standard library only: production machines run this folder, together with
:mod:`livegraft.errors`, :mod:`livegraft.progress`, :mod:`livegraft.run`,
:mod:`livegraft.elf.header` and :mod:`livegraft.trust`, and nothing else of the package.

What a payload has to bring, so that the runtime can drive it:

- ``MODULE_INFO(livepatch, "Y")`` and a ``name`` in ``.modinfo``;
- a section ``.livegraft``, not allocated, with the manifest (:mod:`livegraft.runtime.payload`);
- the module parameters ``model`` (0444), ``livegraft`` (0444, ``1:<SHA-256 of the fix>``) and
  ``kick`` (0200), as kmod/README.md describes them.

The kernel says which patches are loaded, their parameters who built them. Only what no module tells
is kept in a file, for the record of an unload (:mod:`livegraft.runtime.known`).

A name that this module offers is imported when it is first asked for: each verb needs few of them,
and start-up time counts.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Blocker",
    "Event",
    "Forecast",
    "Guarantee",
    "Loaded",
    "Manifest",
    "Model",
    "ModelName",
    "Offer",
    "OnStall",
    "Outlook",
    "PatchState",
    "Payload",
    "Phase",
    "Status",
    "Unloaded",
    "Verdict",
    "Verified",
    "events",
    "forecast",
    "load",
    "loaded",
    "model_named",
    "model_of",
    "models",
    "status",
    "unload",
    "unload_all",
    "verify",
    "wait",
]

_NAMES = {
    "blockers": ("Blocker",),
    "following": ("Event", "events", "loaded"),
    "forecasting": ("Forecast", "Outlook", "forecast"),
    "loading": ("Loaded", "load"),
    "model": ("Guarantee", "Model", "ModelName", "Phase", "model_named", "model_of"),
    "offers": ("Offer", "models"),
    "payload": ("Manifest", "Payload"),
    "stall": ("OnStall",),
    "state": ("PatchState", "Status", "status", "wait"),
    "unloading": ("Unloaded", "unload", "unload_all"),
    "verifying": ("Verdict", "Verified", "verify"),
}
_PLACES = {name: place for place, names in _NAMES.items() for name in names}
"""The module that each name is from."""

if TYPE_CHECKING:
    from livegraft.runtime.blockers import Blocker
    from livegraft.runtime.following import Event, events, loaded
    from livegraft.runtime.forecasting import Forecast, Outlook, forecast
    from livegraft.runtime.loading import Loaded, load
    from livegraft.runtime.model import Guarantee, Model, ModelName, Phase, model_named, model_of
    from livegraft.runtime.offers import Offer, models
    from livegraft.runtime.payload import Manifest, Payload
    from livegraft.runtime.stall import OnStall
    from livegraft.runtime.state import PatchState, Status, status, wait
    from livegraft.runtime.unloading import Unloaded, unload, unload_all
    from livegraft.runtime.verifying import Verdict, Verified, verify
else:

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
