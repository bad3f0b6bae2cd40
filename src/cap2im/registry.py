"""Registry of the models by `kind`, the key that recipes and model folders name.

The parts of a model are written as "module:name" and imported on use. A new model is a network with its configuration, a trainer with its
recipe, and an entry of `MODELS`; docs/adding-a-model.md walks through one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Spec:
    """The parts of a model as "module:name".

    Attributes:
        network: an `nn.Module` whose only argument is the configuration, or configuration and `vocabulary_size`; a `DrawingModel` if it
            draws.
        config: the pydantic model of its configuration.
        recipe: a `Recipe`, whose section `model` is the configuration.
        trainer: a `Trainer` of the recipe.
        card: a function of name, recipe and figures that returns the text of the model card.
    """

    network: str
    config: str
    recipe: str
    trainer: str
    card: str = "cap2im.training.card:model_card"

    @property
    def network_class(self) -> Any:
        """The class of the network."""
        return resolve_name(self.network)

    @property
    def config_class(self) -> Any:
        """The class of the configuration."""
        return resolve_name(self.config)

    @property
    def recipe_class(self) -> Any:
        """The class of the recipe."""
        return resolve_name(self.recipe)

    @property
    def trainer_class(self) -> Any:
        """The class of the trainer."""
        return resolve_name(self.trainer)

    @property
    def write_card(self) -> Any:
        """The function that returns the text of a model card."""
        return resolve_name(self.card)

    @property
    def draws(self) -> bool:
        """Whether the network draws captions."""
        from cap2im.models.interface import DrawingModel

        return issubclass(self.network_class, DrawingModel)


MODELS = {
    "draw": Spec(
        "cap2im.models.aligndraw:DRAW",
        "cap2im.models.aligndraw:DRAWConfig",
        "cap2im.config:DRAWRecipe",
        "cap2im.training.variational:VariationalTrainer",
        "cap2im.training.card:variational_card",
    ),
    "vae": Spec(
        "cap2im.models.vae:VAE",
        "cap2im.models.vae:VAEConfig",
        "cap2im.config:VAERecipe",
        "cap2im.training.variational:VariationalTrainer",
        "cap2im.training.card:variational_card",
    ),
    "lapgan": Spec(
        "cap2im.models.lapgan:LAPGAN",
        "cap2im.models.lapgan:LAPGANConfig",
        "cap2im.config:LAPGANRecipe",
        "cap2im.training.lapgan:LAPGANTrainer",
        "cap2im.training.card:lapgan_card",
    ),
    "sharpener": Spec(
        "cap2im.models.lapgan:Sharpener",
        "cap2im.models.lapgan:SharpenerConfig",
        "cap2im.config:SharpenerRecipe",
        "cap2im.training.lapgan:LAPGANTrainer",
        "cap2im.training.card:lapgan_card",
    ),
    "damsm": Spec(
        "cap2im.models.damsm:DAMSM",
        "cap2im.models.damsm:DAMSMConfig",
        "cap2im.config:DAMSMRecipe",
        "cap2im.training.damsm:DAMSMTrainer",
        "cap2im.training.card:damsm_card",
    ),
    "attngan": Spec(
        "cap2im.models.attngan:AttnGAN",
        "cap2im.models.attngan:AttnGANConfig",
        "cap2im.config:AttnGANRecipe",
        "cap2im.training.attngan:AttnGANTrainer",
        "cap2im.training.card:attngan_card",
    ),
    "reader": Spec(
        "cap2im.models.digit_reader:DigitReader",
        "cap2im.models.digit_reader:DigitReaderConfig",
        "cap2im.config:DigitReaderRecipe",
        "cap2im.training.digit_reader:DigitReaderTrainer",
        "cap2im.training.card:digit_reader_card",
    ),
    "composition-reader": Spec(
        "cap2im.models.composition_reader:CompositionReader",
        "cap2im.models.composition_reader:CompositionReaderConfig",
        "cap2im.config:CompositionReaderRecipe",
        "cap2im.training.composition_reader:CompositionReaderTrainer",
        "cap2im.training.card:composition_reader_card",
    ),
    "scene-reader": Spec(
        "cap2im.models.scene_reader:SceneReader",
        "cap2im.models.scene_reader:SceneReaderConfig",
        "cap2im.config:SceneReaderRecipe",
        "cap2im.training.scene_reader:SceneReaderTrainer",
        "cap2im.training.card:scene_reader_card",
    ),
    "skipthoughts": Spec(
        "cap2im.models.skipthoughts:SkipThoughts",
        "cap2im.models.skipthoughts:SkipThoughtsConfig",
        "cap2im.config:SkipThoughtsRecipe",
        "cap2im.training.skipthoughts:SkipThoughtsTrainer",
        "cap2im.training.card:skipthoughts_card",
    ),
    "classifier": Spec(
        "cap2im.models.vgg:VGG",
        "cap2im.models.vgg:VGGConfig",
        "cap2im.config:ClassifierRecipe",
        "cap2im.training.classifier:ClassifierTrainer",
        "cap2im.training.card:classifier_card",
    ),
}
