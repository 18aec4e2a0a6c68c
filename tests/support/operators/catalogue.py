"""All networks, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.operators.chance import CHANCE
from tests.support.operators.elementwise import ELEMENTWISE
from tests.support.operators.model import OperatorModel
from tests.support.operators.products import PRODUCTS
from tests.support.operators.shapes import MIXED, SEVERAL, SHAPES
from tests.support.operators.types import TYPES

MODELS: Mapping[str, OperatorModel] = {
    **PRODUCTS,
    **ELEMENTWISE,
    **SHAPES,
    **SEVERAL,
    **MIXED,
    **TYPES,
    **CHANCE,
}
