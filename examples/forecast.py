"""A forecast of two hourly series with intervals, and what it is worth: `python -m examples.forecast`."""

import math

import numpy as np
import pandas as pd

from domains.timeseries import Forecaster

# Two meters with a daily course; pd.read_csv("meters.csv", index_col=0, parse_dates=True) would be yours.
hours = np.arange(400)
noise = np.random.default_rng(0).normal(size=(400, 2)) / 10
course = np.stack([np.sin(hours * math.pi / 12), np.cos(hours * math.pi / 12)], 1)
stamps = pd.date_range("2024-01-01", periods=400, freq="h")
frame = pd.DataFrame(5 + course + noise, columns=["north", "south"], index=stamps)

forecaster = Forecaster(horizon=12, look_back=24, epochs=1).fit(frame)
table = forecaster.predict()  # the twelve hours behind the frame's last
print(table[["series", "stamp", "prediction", "lower_90", "upper_90"]].to_string(index=False))

scores = forecaster.backtest(origins=3).scores  # beside naive forecasts, from three origins of the test part
print(scores[scores["by"] == "all"].to_string(index=False))

forecaster.save("meters.ckpt")  # python -m app predict --ckpt meters.ckpt --input newer.csv reads it too
assert Forecaster.load("meters.ckpt").predict(frame).equals(table)
