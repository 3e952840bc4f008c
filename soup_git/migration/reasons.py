"""Why a key goes nowhere: the sentences that the tables of several tools say."""

from __future__ import annotations

SPEED = "speed only"
TRACKING = "trackers are off: the run's history is in git"
UPLOAD = "nothing is uploaded while training; git soup push shares what was trained"
SAVING = "checkpoints are commits: training.save_steps says how often"
EVALUATING = "the validation loss is measured once an epoch, or every training.eval_steps"
BEST = "the adapter is that of the last step; run/ID@STEP is any other"
RESUMING = "an interrupted run of git-soup goes on by itself"
FRESH = "training starts from a fresh adapter, not from this one"
CONFIG = "the base's own config is used; change it in a copy of the base"
TOKENIZER = "set it in the base's tokenizer"
OWN_TEMPLATE = "the tokenizer's own chat template is used; write this one to a .jinja file and name it in data.chat_template"
MODAL = "pictures, sound and films are not trained on"
QAT = "quantisation-aware training is not offered"
LOFTQ = "init_strategy: loftq is not carried over"
HALVES = (
    "there, the batch size is halved where memory ends; training.batch_size: auto finds one"
    " before training, and may find a larger one"
)
SECRET = "a token does not belong into a file that git holds"  # noqa: S105
