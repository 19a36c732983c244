"""Published test scores, fractions of 1.

GUE: Matthews correlation of pretrained models of 117M and 2.5B parameters, DNABERT-2 (arXiv 2306.15006), Table 4.
GenomicBenchmarks: accuracy. HyenaDNA and GPT from scratch: arXiv 2306.15794, Table A.4, best epoch on the test set;
Caduceus-Ph (pretrained) and CNN (from scratch): JanusDNA, Table 1, held-out validation, five seeds; Titans LMM
(pretrained on data not stated): arXiv 2501.00663, Table 4.
"""

_GUE = {  # DNABERT-2, NT-2500M-multi
    "tf_0": (72.0, 66.6),
    "tf_1": (76.1, 70.3),
    "tf_2": (66.5, 58.7),
    "tf_3": (58.5, 51.7),
    "tf_4": (77.4, 69.3),
    "mouse_0": (56.8, 63.3),
    "mouse_2": (79.3, 71.5),
    "mouse_3": (66.5, 69.4),
    "mouse_4": (52.7, 47.1),
    "prom_core_tata": (74.2, 73.0),
    "prom_core_notata": (68.0, 71.6),
    "prom_core_all": (69.4, 70.3),
    "prom_300_tata": (71.6, 79.4),
}
_MODELS = ("CNN 264k", "GPT 529k", "HyenaDNA 436k", "Caduceus-Ph 470k, pretrained", "Titans LMM, pretrained")
_BENCHMARKS = {
    "human_enhancers_cohn": (70.2, 67.7, 72.9, 74.7, 75.2),
    "human_enhancers_ensembl": (74.4, 79.0, 85.7, 89.3, 89.6),
    "human_ensembl_regulatory": (87.2, 90.2, 90.4, 87.2, 89.3),
    "human_nontata_promoters": (86.1, 85.2, 93.3, 94.6, 96.6),
    "human_ocr_ensembl": (69.8, 68.3, 78.8, 82.8, 79.9),
    "demo_coding_vs_intergenomic_seqs": (89.2, 89.3, 90.9, 91.5, None),
    "demo_human_or_worm": (94.2, 94.8, 96.4, 97.3, None),
    "dummy_mouse_enhancers_ensembl": (71.5, 79.3, 84.7, 75.4, None),
}


def published_scores(name: str) -> dict[str, dict[str, float]]:
    """{model: {metric: value}} of a named set; empty for any other."""
    if name.startswith("gue/") and name[4:] in _GUE:
        models = ("DNABERT-2 117M, pretrained", "NT 2.5B, pretrained")
        return {model: {"mcc": value / 100} for model, value in zip(models, _GUE[name[4:]], strict=True)}
    values = zip(_MODELS, _BENCHMARKS.get(name, ()), strict=False)
    return {model: {"accuracy": value / 100} for model, value in values if value is not None}
