"""A classifier of DNA, trained on a table of sequences and labels: `python -m examples.dna`."""

import numpy as np
import pandas as pd

from domains.genomics import Classifier


def sequences(count: int, seed: int) -> pd.DataFrame:
    """Sequences of 60 bases, in the place of your own table, of which half hold a TATA box."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        bases = random.choice(list("ACGT"), 60)
        if number % 2:
            place = random.integers(50)
            bases[place : place + 10] = list("TATAAATATA")
        rows.append(("".join(bases), "promoter" if number % 2 else "background"))
    return pd.DataFrame(rows, columns=["sequence", "label"])


# Options are keys of conf/genomics_fasta.yaml: a small model, for a few seconds.
model = {"model.backbone.dim": 16, "model.backbone.layers": 1, "model.optim.lr": 0.02, "data.floors": False}
classifier = Classifier(model | {"trainer.max_epochs": 2}).fit(sequences(400, seed=0))
test = sequences(100, seed=1)
answers = classifier.predict(test["sequence"])
print(answers.head().to_string(index=False))
print(f"right: {(answers['class'] == test['label']).mean():.0%}")
classifier.save("promoters.ckpt")  # python -m app predict --ckpt promoters.ckpt --input new.fa reads it too
