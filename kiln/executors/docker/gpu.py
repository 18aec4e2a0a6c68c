"""Asks an engine for its GPUs; whether a step sees one, it says itself in its `device` event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker.types import DeviceRequest

from kiln.executors.protocol import Gpu

_CDI_KIND = "nvidia.com/gpu"
_SIGNS = ("could not select device driver", "nvidia", "cdi device")


def gpu_request(engine: Mapping[str, Any], gpu: Gpu) -> DeviceRequest | None:
    """What to ask of an engine that says this of itself; None if a GPU can't or need not be had."""
    if gpu == "none":
        return None
    devices = [str(device.get("ID")) for device in engine.get("DiscoveredDevices") or []]
    offers_runtime = "nvidia" in (engine.get("Runtimes") or {})
    if not offers_runtime and any(device.startswith(_CDI_KIND) for device in devices):
        return DeviceRequest(driver="cdi", device_ids=[f"{_CDI_KIND}=all"])
    if offers_runtime or gpu == "required":
        return DeviceRequest(count=-1, capabilities=[["gpu"]])
    return None


def is_gpu_trouble(message: str) -> bool:
    """Whether an engine's words are about a GPU that it cannot give."""
    return any(sign in message.lower() for sign in _SIGNS)
