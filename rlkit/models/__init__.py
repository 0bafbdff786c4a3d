"""Where a model is, what shape it has, and how it is loaded."""

from .load import fetch_model, hub_silence, load_tokenizer, stop_ids
from .place import FOLDER_HOLDS, TINY, ModelPlace, folder_place, hub_name, resolve_model
from .shapes import SHAPES, ModelShape, shape_from_config

__all__ = [
    "FOLDER_HOLDS",
    "SHAPES",
    "TINY",
    "ModelPlace",
    "ModelShape",
    "fetch_model",
    "folder_place",
    "hub_name",
    "hub_silence",
    "load_tokenizer",
    "resolve_model",
    "shape_from_config",
    "stop_ids",
]
