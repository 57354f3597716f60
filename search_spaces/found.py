"""The best configurations that the searches of copying.py found, trained again without a search.

sabtune search search_spaces/found.py  # and --baseline lstm, truncated, self_attention
sabtune confirm found found.lstm found.truncated found.self_attention --top 1
"""

from functools import partial

from sabtune.config import TrainConfig, TrialConfig
from sabtune.models import LSTM, SAB, ModelConfig, SelfAttention
from sabtune.schedule import Linear
from sabtune.study.definition import Space, Study
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder

STUDY = Study(
    name="found",
    task=Copying.Config(length=100, symbols=10),
    ladder=Ladder(
        lengths=(100, 200, 400, 2000, 5000),
        select=(100, 200, 400),
        sequences=256,
        solved_reports=3,
        phases=10,
    ),
    trials=1,
)

training = partial(TrainConfig, updates=20_000, batch_size=32, report_every=1000)


def fixed(model: ModelConfig, train: TrainConfig) -> Space:
    """Return a space with a single configuration."""
    return lambda _: TrialConfig(model=model, train=train)


space = fixed(
    SAB.Config(
        hidden=64,
        k_top=11,
        k_att=3,
        k_trunc=10,
        schedule=Linear(start="all", share=0.14052372971082452),
    ),
    training(
        learning_rate=0.0032686909044118487,
        clip_norm=0.4522691226682337,
        warmup=0.09691147282678983,
        shortest=21,
    ),
)

BASELINES = {
    "lstm": fixed(
        LSTM.Config(hidden=64, forget_bias=1),
        training(
            learning_rate=0.002501339819753809,
            clip_norm=0.6454829962290949,
            warmup=0.05684339488686485,
            shortest=6,
        ),
    ),
    "truncated": fixed(
        LSTM.Config(hidden=64, k_trunc=10),
        training(learning_rate=1e-3, clip_norm=0.5, shortest=5),
    ),
    "self_attention": fixed(
        SelfAttention.Config(hidden=64),
        training(
            learning_rate=0.003182145629619259,
            clip_norm=0.49452039523286867,
            warmup=0.010683916623186789,
            shortest=8,
        ),
    ),
}
