"""Faults of an emulated board, drawn at random."""

from __future__ import annotations

import dataclasses
import random

from kiln.emulator.faults import Faults, Noise


def random_faults(seed: int) -> Faults:
    """None, one or two faults, drawn from a seed."""
    draw = random.Random(seed)

    def noise() -> Noise:
        kind = draw.choice(("drop", "duplicate", "corrupt"))
        return Noise(**{kind: draw.choice((0.0002, 0.001, 0.004))})

    drawn: dict[str, object] = {}
    for _ in range(draw.choice((0, 1, 1, 1, 2, 2))):
        match draw.randrange(9):
            case 0 | 1:
                drawn["to_board"] = noise()
            case 2 | 3:
                drawn["to_host"] = noise()
            case 4:
                drawn["nak_storm"] = (draw.randint(1, 30), draw.choice((1, 3, 8, 40)))
            case 5:
                name = draw.choice(("silent_after", "unplug_after", "reboot_after"))
                drawn[name] = draw.randint(1, 6000)
            case 6:
                drawn["refuse_preamble"] = True
            case 7:
                drawn["flash_full"] = draw.randint(0, 4000)
            case 8:
                drawn["boot_noise"] = draw.randint(1, 400)
    return dataclasses.replace(Faults(seed=seed), **drawn)  # type: ignore[arg-type]
