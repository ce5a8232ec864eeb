"""The configuration of a training run: YAML and command line, typed and checked, with errors of one line."""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from latticegnn.analysis.baselines import TRAINED
from latticegnn.training.callbacks import GateLog
from latticegnn.training.errors import OneLineParser, config_files, read_mapping
from latticegnn.training.losses import LossWeights
from latticegnn.training.module import VALIDATION_METRICS, EmbeddingDataModule, LatticeModule
from latticegnn.training.optim import Optimisation

BASELINES = ("mean", "raw_teacher", "pca", "ridge", *TRAINED)


class RunParser(OneLineParser, LightningArgumentParser):
    """The parser of a training run, which reports a mistake in one line."""

    def instantiate_classes(self, cfg: Any, **kwargs: Any) -> Any:
        """Build what a configuration describes; the engine still calls this by its deprecated name."""
        return self.instantiate(cfg, **kwargs)


class RunCLI(LightningCLI):
    """Builds model, data and trainer of a run from arguments; nothing is read, embedded or trained yet.

    Args:
        arguments: Command-line arguments, for example ``["--config", "configs/default.yaml", "--model.steps", "9"]``.
        folder: Where the run is kept; by default a new one, named by task and time, below ``run_dir``.

    Raises:
        ValueError: For settings that contradict each other, the machine or the lattice.
        FileNotFoundError: When a file that is named does not exist.
    """

    def __init__(self, arguments: list[str], folder: Path | None = None) -> None:
        self._arguments, self._folder = arguments, folder
        about = {"description": "Train a lattice and hold it against its baselines.", "prog": "latticegnn fit"}
        try:
            with quiet_engine():
                super().__init__(
                    LatticeModule,
                    EmbeddingDataModule,
                    run=False,
                    save_config_callback=None,
                    seed_everything_default=0,
                    parser_class=RunParser,
                    parser_kwargs=about,
                    trainer_defaults={"callbacks": [GateLog()]},
                    auto_configure_optimizers=False,
                    load_from_checkpoint_support=False,
                )
        except MisconfigurationException as error:
            self._forget_folder()
            raise ValueError(
                f"the settings of the trainer and its callbacks must fit each other and this machine; "
                f"{str(error).rstrip('.')}; change the setting that is named."
            ) from error
        except BaseException:
            self._forget_folder()
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a run has beyond the engine's own settings."""
        parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="Folder that holds the run folders.")
        parser.add_argument(
            "--log_level", type=Literal["debug", "info", "warning", "error"], default="info", help="What is logged."
        )
        parser.add_argument(
            "--baselines",
            type=list[Literal[BASELINES]],  # type: ignore[valid-type]
            default=list(BASELINES),
            help="Rows of the honest table beside the lattice; raw_teacher and ridge are for pairs only.",
        )
        parser.add_argument(
            "--refit_readout",
            type=bool,
            default=True,
            help="After training, solve the linear readout by ridge regression where the validation loss gains by it; "
            "for the baselines too.",
        )
        parser.add_argument(
            "--ckpt_path", type=Path | None, default=None, help="Checkpoint of an interrupted run to go on from."
        )
        parser.add_class_arguments(LossWeights, "loss")
        parser.add_class_arguments(Optimisation, "optim")
        parser.link_arguments("loss", "model.loss", apply_on="instantiate")
        parser.link_arguments("optim", "model.optim", apply_on="instantiate")
        parser.link_arguments("model.embedding_dim", "data.expected_dim")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.order_seed")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "early_stopping.monitor": VALIDATION_METRICS[0],
                "early_stopping.patience": 10,
                "checkpoint.monitor": VALIDATION_METRICS[0],
                "checkpoint.save_last": True,
                "trainer.deterministic": True,
                "trainer.enable_model_summary": False,
                "trainer.log_every_n_steps": 10,
                "trainer.gradient_clip_val": 1.0,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments given, whatever the program's own are."""
        for file in config_files(self._arguments):
            read_mapping(file)
        self.config = parser.parse_args(self._arguments)
        set_level(self.config.log_level)
        seed = self.config.seed_everything
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed_everything must be a whole number from 0 to 2³² − 1; got {seed}; 0 is the default.")

    def before_instantiate_classes(self) -> None:
        """Check what only fails later otherwise, and create the run folder."""
        config = self.config
        pairs = config.data.task == "qa"
        known = VALIDATION_METRICS if pairs else VALIDATION_METRICS[:-1]
        for key in ("early_stopping", "checkpoint"):
            if config[key].monitor not in known:
                raise ValueError(
                    f"{key}.monitor must be one of {', '.join(known)}; got {config[key].monitor!r}; choose one of them."
                )
            mode = "min" if config[key].monitor in VALIDATION_METRICS[:2] else "max"
            if config[key].mode != mode:
                raise ValueError(
                    f"{key}.mode must be {mode} for {config[key].monitor}; got {config[key].mode!r}; set it to {mode}."
                )
        if config.trainer.max_epochs is None or config.trainer.max_epochs < 1:
            raise ValueError(
                "trainer.max_epochs must be at least 1, as the schedule needs an end; got "
                f"{config.trainer.max_epochs}; set it."
            )
        if config.trainer.precision not in (None, 32, "32", "32-true"):
            raise ValueError(
                "trainer.precision must be 32-true, as the sums over neighbours run in float32 so far; got "
                f"{config.trainer.precision!r}; leave it out."
            )
        if config.trainer.max_steps not in (None, -1):
            raise ValueError(
                "a run's budget is set in epochs, so that each ends with a validation; got trainer.max_steps "
                f"{config.trainer.max_steps}; set trainer.max_epochs."
            )
        batches, every = config.trainer.limit_val_batches, config.trainer.check_val_every_n_epoch or 1
        if batches == 0 or every > config.trainer.max_epochs:
            raise ValueError(
                "a run must validate, as validation selects its weights; got trainer.limit_val_batches "
                f"{batches}, check_val_every_n_epoch {every}; leave them at their defaults."
            )
        if config.ckpt_path is not None and not config.ckpt_path.is_file():
            raise FileNotFoundError(
                f"ckpt_path must be an existing checkpoint; {config.ckpt_path} is not; "
                "pass a file of a run's folder checkpoints."
            )
        try:
            self.folder = self._folder or _new_folder(config.run_dir, config.data.task)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"run_dir must be a folder that can be written; got {config.run_dir}: {error.strerror}; "
                "choose another one."
            ) from error
        self._dirpath = config.checkpoint.dirpath
        if self._dirpath is None:
            config.checkpoint.dirpath = str(self.folder / "checkpoints")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, logging to TensorBoard and CSV in the run folder unless the configuration names loggers."""
        if self.config.trainer.logger is None:
            kwargs["logger"] = [made(self.folder, name="", version="logs") for made in (TensorBoardLogger, CSVLogger)]
        return super().instantiate_trainer(default_root_dir=self.folder, **kwargs)

    def save(self) -> None:
        """Write the resolved configuration into the run folder; another run of it keeps its own checkpoints."""
        config = self.config.clone()
        config.checkpoint.dirpath = self._dirpath
        self.parser.save(config, self.folder / "config.yaml", overwrite=True)

    def baseline_trainer(self, scratch: Path) -> Trainer:
        """Make a trainer with the run's own budget and selection rule, but without logs or progress bar.

        Args:
            scratch: Folder for its checkpoints.
        """
        settings = self.config.as_dict()
        best = ModelCheckpoint(**settings["checkpoint"] | {"dirpath": scratch, "save_last": False})
        stop = EarlyStopping(**settings["early_stopping"])
        extra: list[Callback] = [best, stop]
        given = settings["trainer"] | {"logger": False, "callbacks": extra, "enable_progress_bar": False}
        with quiet_engine():
            return Trainer(**given | {"default_root_dir": scratch})

    def _forget_folder(self) -> None:
        """Remove the run folder again as long as it is empty."""
        with contextlib.suppress(AttributeError, OSError):
            self.folder.rmdir()


def _new_folder(root: Path, task: str) -> Path:
    """Create a folder that no other run has, not even one started in the same second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for count in itertools.count(1):
        folder = root / (f"{task}-{stamp}" if count == 1 else f"{task}-{stamp}-{count}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Keep the engine's advice out of the output where it does not apply to data held in memory."""
    names = ("lightning.pytorch", "lightning.fabric")
    levels = [logging.getLogger(name).level for name in names]
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            # The engine calls torch functions that torch has deprecated; the caller can do nothing about it.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            # A resumed run has a folder of its own.
            warnings.filterwarnings("ignore", message="The dirpath has changed from")
            warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
            yield
    finally:
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)


def set_level(level: str) -> None:
    """Let the package log from this level on, one line a record, to standard error."""
    if not logging.getLogger("latticegnn").handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logging.getLogger("latticegnn").addHandler(handler)
    logging.getLogger("latticegnn").setLevel(level.upper())
