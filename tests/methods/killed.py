"""A small reduction as a process of its own, so that a test can kill it. Usage: killed.py FOLDER [resume]."""

import sys

import torch

import secateur
from secateur import data, networks
from secateur.methods import ReduceSettings
from secateur.train import TrainSettings

torch.set_num_threads(1)
folder, resume = sys.argv[1], len(sys.argv) > 2
splits = data.load("digits", limit=200)
net = networks.build("digits-net", seed=0)
from secateur.train import fit  # noqa: E402

fit(net, splits.train, None, TrainSettings(epochs=3, lr=0.05, batch_size=50), seed=0)
settings = ReduceSettings(
    max_drop=8.0,
    max_iterations=40,
    rounds=1,
    retrain=TrainSettings(epochs=2, lr=0.02, ema=0.9, keep="last"),
    score_examples=100,
)
secateur.reduce(net, splits, settings=None if resume else settings, out=folder, resume=resume)
