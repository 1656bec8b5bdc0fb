"""Prompts: embeddings of texts that condition a UNet."""

from ctsr_lightning.prompts.base import CaptionPrompt, FixedPrompt, NoPrompt, Prompt, TaggedPrompt, TextPrompt
from ctsr_lightning.prompts.taggers import ImageTagger, RAMTagger
from ctsr_lightning.prompts.text_embeddings import TextEmbeddings

__all__ = (
    "CaptionPrompt",
    "FixedPrompt",
    "ImageTagger",
    "NoPrompt",
    "Prompt",
    "RAMTagger",
    "TaggedPrompt",
    "TextEmbeddings",
    "TextPrompt",
)
