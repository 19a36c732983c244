"""Titans as Hugging Face models; the one package here that needs `transformers` (`pip install '.[hf]'`).

Importing it makes `AutoConfig` and `AutoModelForCausalLM` know the model type `titans`.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from memory.hf.beside import add_memory
from memory.hf.cache import StateCache
from memory.hf.config import TitansConfig
from memory.hf.model import TitansForCausalLM

AutoConfig.register(TitansConfig.model_type, TitansConfig)
AutoModelForCausalLM.register(TitansConfig, TitansForCausalLM)

__all__ = ["StateCache", "TitansConfig", "TitansForCausalLM", "add_memory"]
