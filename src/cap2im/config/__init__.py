"""Recipes: everything that decides the result of a training, as strictly checked TOML.

A recipe is a file `cap2im/recipes/NAME.toml` or any other; `--set a.b=c` changes single values. Unknown keys are errors.
"""

from cap2im.config.keys import differences, setting_keys
from cap2im.config.recipes import (
    AttnGANRecipe,
    AttnGANTraining,
    ClassifierRecipe,
    ClassifierTraining,
    DAMSMRecipe,
    DAMSMTraining,
    DigitReaderRecipe,
    DigitReaderTraining,
    DrawingRecipe,
    DRAWRecipe,
    GANRecipe,
    GANTraining,
    LAPGANRecipe,
    Recipe,
    SharpenerRecipe,
    SkipThoughtsRecipe,
    SkipThoughtsTraining,
    VAERecipe,
    VariationalRecipe,
    VariationalTraining,
)
from cap2im.config.sections import Augmentation, CaptionsData, DigitsData, DrawingData, PicturesData, Section, SentencesData, Training
from cap2im.config.settings import Setting, settings
from cap2im.config.toml import changed, load_recipe, parse_recipe, recipe_names, to_toml

__all__ = [
    "AttnGANRecipe",
    "AttnGANTraining",
    "Augmentation",
    "CaptionsData",
    "ClassifierRecipe",
    "ClassifierTraining",
    "DAMSMRecipe",
    "DAMSMTraining",
    "DRAWRecipe",
    "DigitReaderRecipe",
    "DigitReaderTraining",
    "DigitsData",
    "DrawingData",
    "DrawingRecipe",
    "GANRecipe",
    "GANTraining",
    "LAPGANRecipe",
    "PicturesData",
    "Recipe",
    "Section",
    "SentencesData",
    "Setting",
    "SharpenerRecipe",
    "SkipThoughtsRecipe",
    "SkipThoughtsTraining",
    "Training",
    "VAERecipe",
    "VariationalRecipe",
    "VariationalTraining",
    "changed",
    "differences",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
    "setting_keys",
    "settings",
    "to_toml",
]
