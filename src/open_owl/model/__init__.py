"""All that a checkpoint needs to load itself; importing this registers it with transformers' Auto classes."""

from .abstractor_mplug_owl import MplugOwlVisualAbstractor
from .configuration_mplug_owl import MplugOwlConfig, MplugOwlVisionConfig, MplugOwlVisualAbstractorConfig
from .modeling_mplug_owl import MplugOwlForConditionalGeneration, MplugOwlModel
from .processing_mplug_owl import MplugOwlProcessor
from .projector_mplug_owl import MplugOwlLinearProjector
from .vision_mplug_owl import MplugOwlVisionModel

__all__ = [
    "MplugOwlConfig",
    "MplugOwlForConditionalGeneration",
    "MplugOwlLinearProjector",
    "MplugOwlModel",
    "MplugOwlProcessor",
    "MplugOwlVisionConfig",
    "MplugOwlVisionModel",
    "MplugOwlVisualAbstractor",
    "MplugOwlVisualAbstractorConfig",
]
