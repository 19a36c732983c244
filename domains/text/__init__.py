"""Language models: causal prediction of tokens, in training, generation and long-context tasks (Titans section 5)."""

from domains.text.data import TextData
from domains.text.head import LanguageHead
from domains.text.tasks import TaskData

__all__ = ["LanguageHead", "TaskData", "TextData"]
