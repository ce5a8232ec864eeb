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

import yaml
from jsonargparse.typing import NonNegativeFloat
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from latticegnn.analysis.baselines import TRAINED
from latticegnn.analysis.ladder import RUNGS
from latticegnn.data.mixture import paired
from latticegnn.training.callbacks import GateLog, GradientWatch, Progress, SeedEachBatch
from latticegnn.training.checkpoints import CheckpointFiles, saved
from latticegnn.training.checks import check_monitors, check_text, check_trainer, logged
from latticegnn.training.decoding import TEXT_BASELINES, Decoding
from latticegnn.training.errors import OneLineParser, config_files, option, read_mapping, refuse_nulls
from latticegnn.training.module import SETTINGS, VALIDATION_METRICS, EmbeddingDataModule, LatticeModule

BASELINES = ("mean", "raw_teacher", "pca", "ridge", *TRAINED)
CONFIG_FILE, CHECKPOINTS = "config.yaml", "checkpoints"


class RunParser(OneLineParser, LightningArgumentParser):
    """The parser of a training run, which reports a mistake in one line."""

    def instantiate_classes(self, cfg: Any, **kwargs: Any) -> Any:
        """Build what a configuration describes; the engine still calls this by its deprecated name."""
        list(map(paired, cfg.data.more or ()))  # refuses what would fail less clearly
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
        self._arguments, self._folder = list(arguments), folder
        #: The checkpoint that the run goes on from, where it does.
        self.resume = self._resumed()
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
            type=list[Literal[(*BASELINES, *RUNGS, *TEXT_BASELINES)]],  # type: ignore[valid-type]
            default=list(BASELINES),
            help="Rows of the honest table beside the lattice; raw_teacher and ridge are for pairs only, the rungs of "
            "the ladder and what gives text alone only where they are named.",
        )
        parser.add_argument(
            "--decoder",
            type=Decoding | None,
            default=None,
            help="A text decoder that is trained on what the model gives.",
        )
        parser.add_argument(
            "--model_from",
            type=Path | None,
            default=None,
            help="Folder of a saved lattice of the same settings whose weights the run starts from.",
        )
        parser.add_argument(
            "--refit_readout",
            type=bool,
            default=True,
            help="After training, solve the linear readout where the validation loss gains by it; for baselines too.",
        )
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Name of the run's folder, task and time unless set; needed where several processes share a run.",
        )
        parser.add_argument(
            "--resume",
            type=Path | None,
            default=None,
            help="Folder of a run to go on with, or one of its checkpoints; --config is then its config.yaml.",
        )
        parser.add_argument(
            "--save_every",
            type=NonNegativeFloat,
            default=60.0,
            help="Seconds between checkpoints to go on from; 0 saves after every update.",
        )
        for name, kind in SETTINGS.items():
            parser.add_class_arguments(kind, name)
            parser.link_arguments(name, f"model.{name}", apply_on="instantiate")
        for key, source in FOLLOWING.items():
            parser.link_arguments(source, key)
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "early_stopping.monitor": VALIDATION_METRICS[0],
                "early_stopping.patience": 10,
                "checkpoint.monitor": VALIDATION_METRICS[0],
                "checkpoint.enable_version_counter": False,
                "trainer.deterministic": True,
                "trainer.enable_model_summary": False,
                "trainer.log_every_n_steps": 10,
                "trainer.gradient_clip_val": 1.0,
                "trainer.num_sanity_val_steps": 0,
                "trainer.use_distributed_sampler": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments given, whatever the program's own are."""
        contents = [read_mapping(file) for file in config_files(self._arguments)]
        for content in contents:
            refuse_nulls(parser, content)
        for key, source in FOLLOWING.items():
            section, _, name = key.partition(".")
            parts = [content.get(section) for content in contents]
            given = [part[name] for part in parts if isinstance(part, dict) and name in part]
            given += filter(None, [option(self._arguments, f"--{key}")])
            if given:
                raise ValueError(f"{key} follows from {source}; got {given[0]}; leave it out and set {source}.")
        self.config = parser.parse_args(self._arguments)
        set_level(self.config.log_level)
        seed = self.config.seed_everything
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed_everything must be a whole number from 0 to 2³² − 1; got {seed}; 0 is the default.")

    def before_instantiate_classes(self) -> None:
        """Check what only fails later otherwise, and create the run folder."""
        config = self.config
        check_text(config)
        check_monitors(config, logged(config, VALIDATION_METRICS))
        check_trainer(config.trainer)
        if config.resume is not None and self.resume is None:
            raise ValueError(
                f"resume is for the command line, written out; got {config.resume} from elsewhere; pass --resume "
                f"{config.resume}."
            )
        if self.resume is not None:
            if config.run_name is not None:
                raise ValueError(
                    f"a run that goes on keeps its folder; got run_name {config.run_name!r} beside resume "
                    f"{config.resume}; leave out one of them."
                )
            self.folder = self.resume.parent.parent
        else:
            self._make_folder()
        self._dirpath = config.checkpoint.dirpath
        if self._dirpath is None:
            config.checkpoint.dirpath = str(self.folder / CHECKPOINTS)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, logging to TensorBoard and CSV in the run folder unless the configuration names loggers."""
        if self.config.trainer.logger is None:
            # A run that goes on logs beside what was logged before; see `latticegnn.report.run`.
            version = "logs" if self.resume is None else f"logs-from-{self.resume.stem.rpartition('-')[2]}"
            kwargs["logger"] = [made(self.folder, name="", version=version) for made in (TensorBoardLogger, CSVLogger)]
        plugins = [*(self.config_init.trainer.plugins or []), CheckpointFiles()]
        trainer = super().instantiate_trainer(default_root_dir=self.folder, plugins=plugins, **kwargs)
        progress = Progress(self.folder / CHECKPOINTS, self.config.save_every)
        trainer.callbacks += [*self.watchers(), progress]  # type: ignore[attr-defined]
        if trainer.world_size > 1 and self.resume is None and self.config.run_name is None:
            raise ValueError(
                f"processes that share a run must agree on its folder; got {trainer.world_size} processes and no "
                "run_name; set --run_name."
            )
        self.model.pool.check_processes(trainer.world_size)
        return trainer

    def watchers(self) -> list[Callback]:
        """Make the callbacks that watch every training of the run, baselines included."""
        return [SeedEachBatch(self.config.seed_everything), GradientWatch()]

    @property
    def decoding(self) -> Decoding | None:
        """Settings of the text decoder, where there is one."""
        found: Decoding | None = self.config_init.decoder
        return found

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the run's result, as plain numbers and texts."""
        plain = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        for path in _FREE:
            *above, last = path.split(".")
            part = plain
            for key in above:
                part = part[key]
            part.pop(last, None)
        return plain

    def save(self) -> None:
        """Write the resolved configuration into the run folder; another run of it keeps its own checkpoints."""
        config = self.config.clone()
        config.checkpoint.dirpath = self._dirpath
        config.run_name = None
        self.parser.save(config, self.folder / CONFIG_FILE, overwrite=True, skip_unset=False)

    def baseline_trainer(self, scratch: Path) -> Trainer:
        """Make a trainer with the run's own budget and selection rule, but without logs or progress bar.

        Args:
            scratch: Folder for its checkpoints.
        """
        settings = self.config.as_dict()
        best = ModelCheckpoint(**settings["checkpoint"] | {"dirpath": scratch})
        stop = EarlyStopping(**settings["early_stopping"])
        extra: list[Callback] = [best, stop, *self.watchers()]
        given = settings["trainer"] | {"logger": False, "callbacks": extra, "enable_progress_bar": False}
        with quiet_engine():
            return Trainer(**given | {"default_root_dir": scratch})

    def _resumed(self) -> Path | None:
        """Find the checkpoint that ``--resume`` names, and take over the configuration of its run."""
        given = option(self._arguments, "--resume")
        if given is None:
            return None
        place = Path(given)
        folder = place.parent.parent if place.is_file() else place
        rule = "resume must be a run's folder, or one of its checkpoints progress-….ckpt"
        if not (folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(f"{rule}; {place} is neither; pass for instance runs/latest.")
        if not list(config_files(self._arguments)):
            self._arguments[:0] = ["--config", str(folder / CONFIG_FILE)]
        found = [place] if place.is_file() else saved(folder.resolve() / CHECKPOINTS)
        if not found:
            raise FileNotFoundError(
                f"{rule}; {folder} has none, so nothing was trained there yet; start it anew with "
                f"--config {folder / CONFIG_FILE}."
            )
        return found[0].resolve()

    def _make_folder(self) -> None:
        config = self.config
        try:
            if self._folder is not None:
                self.folder = self._folder
            elif config.run_name is None:
                self.folder = _new_folder(config.run_dir, config.data.task)
            else:
                self.folder = config.run_dir / config.run_name
                if _rank() == 0 and self.folder.is_dir() and any(self.folder.iterdir()):
                    raise ValueError(
                        f"run_name must be new, as a run never overwrites another; {self.folder} exists; choose "
                        f"another name, or go on with --resume {self.folder}."
                    )
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"run_dir must be a folder that can be written; got {config.run_dir}: {error.strerror}; "
                "choose another one."
            ) from error

    def _forget_folder(self) -> None:
        """Remove the run folder again as long as it is empty."""
        with contextlib.suppress(AttributeError, OSError):
            self.folder.rmdir()


FOLLOWING = {
    "data.expected_dim": "model.embedding_dim",
    "model.seed": "seed_everything",
    "data.order_seed": "seed_everything",
}
"""Key → the key that it follows from."""
_FREE = (
    "run_dir", "run_name", "resume", "log_level", "save_every", "baselines", "data.cache_dir", "data.cache_max_gb",
    "checkpoint.dirpath", "trainer.logger", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator",
)  # fmt: skip
"""Settings that may change when a run goes on: they say where and how it runs and what is shown, not what comes out."""


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
            # Each process computes the validation metrics over all rows, and so the same.
            warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist=True")
            warnings.filterwarnings("ignore", message="torch.distributed.nn.functional.all_gather is deprecated")
            warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
            yield
    finally:
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)


def _rank() -> int:
    """Return this process's number, which the engine reads from its launcher's environment."""
    return int(getattr(rank_zero_only, "rank", 0))


def set_level(level: str) -> None:
    """Let the package log from this level on, one line a record, to standard error.

    Of several processes all but the first say warnings alone.
    """
    if _rank() > 0 and level in ("debug", "info"):
        level = "warning"
    if not logging.getLogger("latticegnn").handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logging.getLogger("latticegnn").addHandler(handler)
    logging.getLogger("latticegnn").setLevel(level.upper())
