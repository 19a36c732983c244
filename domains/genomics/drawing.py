"""Pictures of what a classifier is judged by, after a validation and a test."""

from lightning import Trainer

from app.callbacks import Pictures
from app.module import TitansModule


class DrawScores(Pictures):
    """The task's: confusion matrix, ROC and precision-recall curves, reliability; or predicted against true."""

    def on_validation_end(self, trainer: Trainer, module: TitansModule) -> None:
        if module.summary and self.shows(trainer):
            self.show(trainer, module.head.task.figures(module.summary))

    def on_test_end(self, trainer: Trainer, module: TitansModule) -> None:
        if module.summary and trainer.is_global_zero:
            self.keep(trainer, module.head.task.figures(module.summary))
