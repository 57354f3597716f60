"""Fashion-MNIST by rows, one row of 28 pixels per step: how accurate are SAB and a GRU?"""

from dataclasses import replace

import mnist_rows

import sabtune as sab

STUDY = replace(
    mnist_rows.STUDY,
    name="fashion_mnist_rows",
    task=sab.Pixels.Config(images="fashion-mnist", length=28, by="row"),
)

space, BASELINES = mnist_rows.space, mnist_rows.BASELINES
