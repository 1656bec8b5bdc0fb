"""LightningDataModule of photos and pairs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from ctsr_lightning.batch import Batch
from ctsr_lightning.data.collate import PlannedBatch, collate
from ctsr_lightning.data.datasets import MixedDataset, PairDataset, PhotoDataset, RestorationDataset, Sample
from ctsr_lightning.data.files import ImageCache
from ctsr_lightning.data.pairing.folders import PairFolder
from ctsr_lightning.data.samplers import EvaluationSampler, ResumableLoader, TrainingSampler
from ctsr_lightning.data.scan import Splits
from ctsr_lightning.data.sources import PhotoSources, photo_folders
from ctsr_lightning.data.views import LowQualityDataset, Remembered, WithoutTruth, length
from ctsr_lightning.degradation.recipe import Degradation
from ctsr_lightning.images.index import SizeIndex
from ctsr_lightning.images.listing import Sources, named_path


class CountTrained(Callback):
    """Count the batches that were trained on, for the training loader's place in a checkpoint."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Add one."""
        loader = trainer.train_dataloader
        if isinstance(loader, ResumableLoader) and loader.trained is not None:
            loader.trained += 1


class RealESRGANDataModule(LightningDataModule):
    """Data for real-world super-resolution: photos degraded on the fly, real pairs, or both mixed.

    Training degrades random crops, mirrored half of the time, by Real-ESRGAN's second-order process. Validation and
    test degrade each photo in one way that depends on `seed` and the photo's name only: the same bits for any number of
    workers, processes and images per batch. Unusable images are left out; they are counted and the first few named.

    Args:
        train: Folders of photos to train on, searched recursively, or `PhotoFolder`s with a weight and other settings;
            without `train` and `pairs`, scikit-image's.
        pairs: Folders of low-quality and ground-truth pairs to train on as well.
        val: Folders of photos to validate on; without `val` and `val_pairs`, some of `train` are held out.
        val_pairs: Folders of pairs to validate on as well.
        test: Folders of photos to test on; without `test` and `test_pairs`, the validation set.
        test_pairs: Folders of pairs to test on as well.
        predict: Folders or files to restore; without it, the low-quality images of the validation set.
        scale: Ratio of the ground truth's size to the low-quality size, a whole number of at least 1.
        crop: Side of the training crop in ground-truth pixels, a multiple of `scale`.
        val_crop: Side of the central crop for validation and test in ground-truth pixels; null takes whole photos.
        val_repeats: Degradations per validation and test photo; all but the first crop at another place.
        val_split: Photos to hold out where `val` names none, at most a fifth, chosen by their names; 0 for none.
        batch_size: Training samples per batch and process.
        eval_batch_size: Validation and test samples per batch and process; more than 1 needs images of one size.
        samples_per_epoch: Training samples per epoch over all processes, rounded up to whole optimizer steps; null is
            one per image.
        pool: Number of distinct training samples, in memory with `num_workers: 0`; null makes new ones for ever.
        num_workers: Loader processes; 0 loads in the main process, which keeps up with small networks on a CPU.
        degradation: Recipe of the low-quality images; null is `ctsr_lightning.degradation.realesrgan`.
        degrade_on: Where training images are degraded: in the loader's `worker`, or in batches on the `device`.
        sharpen_gt: Sharpen training photos first, as Real-ESRGAN does (unsharp masking); crisper and less faithful.
        seed: Seed of the training stream and of the validation degradations.
        cache_mb: Memory for decoded images in megabytes per process; 0 decodes each time.
        index: Folder for the sizes of training images, so that their headers are read once and by one process of each
            machine; null has every process read them at every start.
    """

    def __init__(
        self,
        train: PhotoSources = None,
        pairs: list[PairFolder] | None = None,
        val: Sources = None,
        val_pairs: list[PairFolder] | None = None,
        test: Sources = None,
        test_pairs: list[PairFolder] | None = None,
        predict: Sources = None,
        scale: int = 4,
        crop: int = 256,
        val_crop: int | None = None,
        val_repeats: int = 1,
        val_split: int = 8,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        samples_per_epoch: int | None = None,
        pool: int | None = None,
        num_workers: int = 2,
        degradation: Degradation | None = None,
        degrade_on: Literal["worker", "device"] = "worker",
        sharpen_gt: bool = False,
        seed: int = 0,
        cache_mb: int = 512,
        index: str | Path | None = None,
    ) -> None:
        super().__init__()
        sources: dict[str, Any] = {"train": train, "val": val, "test": test, "predict": predict}
        self.sources = {split: photo_folders(named) for split, named in sources.items()}
        self.pair_folders = {"train": pairs or [], "val": val_pairs or [], "test": test_pairs or []}
        for name, value in {"scale": scale, "crop": crop, "val_repeats": val_repeats, "batch_size": batch_size}.items():
            if value < 1:
                raise ValueError(f"Expected `{name}` of at least 1, found {value}.")
        for name, side in {"crop": crop, "val_crop": val_crop}.items():
            if side is not None and (side < scale or side % scale):
                nearest = max(1, round(side / scale)) * scale
                raise ValueError(
                    f"Expected `{name}` to be a multiple of the scale {scale}, found {side}. Set `{name}: {nearest}`."
                )
        for name, count in {"samples_per_epoch": samples_per_epoch, "pool": pool}.items():
            if count is not None and count < 1:
                raise ValueError(f"Expected `{name}` of at least 1, or null, found {count}.")
        if sharpen_gt and pairs and not train:
            raise ValueError("Expected photos in `train` to sharpen, found pairs alone. Turn `sharpen_gt` off.")
        self.scale, self.crop, self.val_crop = scale, crop, val_crop
        self.val_repeats, self.val_split = val_repeats, val_split
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.samples_per_epoch, self.pool = samples_per_epoch, pool
        self.num_workers = num_workers
        self.degradation = degradation if degradation is not None else Degradation()
        self.degrade_on, self.sharpen_gt = degrade_on, sharpen_gt
        self.seed = seed
        self._cache = ImageCache(cache_mb * 2**20)
        self._counter = CountTrained()
        self._datasets: dict[str, Dataset[Sample]] = {}
        self._splits = Splits(
            self.sources,
            self.pair_folders,
            scale=scale,
            least={"train": crop, "predict": 1, **dict.fromkeys(("val", "test"), val_crop or scale)},
            val_split=val_split,
            cache=self._cache,
            index=SizeIndex(None if index is None else named_path(index), rank_zero_info),
            info=rank_zero_info,
            warn=rank_zero_warn,
        )

    @property
    def remarks(self) -> dict[str, str]:
        """What was left out of each split that was searched."""
        return self._splits.remarks

    def prepare_data(self) -> None:
        """Bring the index up to date; Lightning calls this in one process of each machine, and the others wait."""
        fits = self.trainer is not None and self.trainer.state.fn == "fit"
        if fits and self._splits.index.folder is not None and self._splits.named("train"):
            self._splits.files("train")

    def setup(self, stage: str) -> None:
        """Find the files that a stage needs.

        Args:
            stage: `fit`, `validate`, `test` or `predict`.

        Raises:
            FileNotFoundError: If a folder does not exist or holds no image.
            ValueError: If no image of a folder can be used, or pairs do not match.
        """
        # One process of each machine has brought the index up to date in `prepare_data`.
        self._splits.index.trust = stage == "fit" and self.trainer is not None and self.trainer.local_rank > 0
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}[stage]:
            if split not in self._datasets:
                dataset = self._build(split)
                if dataset is not None:
                    self._datasets[split] = dataset
                elif stage == "validate":
                    raise ValueError("Expected a validation set, found none: name a folder in `val` or `val_pairs`.")
        if stage == "fit":
            callbacks: list[Callback] = getattr(self.trainer, "callbacks", [self._counter])
            if self._counter not in callbacks:
                callbacks.insert(0, self._counter)  # before those that write checkpoints
            files = {split: self._splits.files(split) for split in ("train", "val")}
            for split, found in files.items():
                photos, pairs = found.counts
                rank_zero_info(f"`{split}`: {photos} photos, {pairs} pairs.")
            if shares := files["train"].shares():
                listed = ", ".join(f"{100 * share:.2f} % '{name}'" for name, share in shares.items())
                rank_zero_info(f"`train`: draws by source: {listed}.")
            if self._process[0] == 0 and (common := files["train"].common(files["val"])):
                rank_zero_warn(f"{len(common)} files are both trained and validated on, '{common[0]}' among them.")

    def teardown(self, stage: str) -> None:
        """Say at the end of a training which images it could no longer read."""
        dataset = self._datasets.get("train")
        if stage == "fit" and isinstance(dataset, MixedDataset) and (note := dataset.replacements()):
            rank_zero_warn(f"`train`: {note}")

    def train_dataloader(self) -> ResumableLoader:
        """Batches of `batch_size` random crops; a resumed run goes on where the checkpoint was made."""
        dataset = self._datasets["train"]
        steps = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        step = self.batch_size * self._process[1] * steps
        wanted = self.samples_per_epoch or length(dataset)
        epoch = math.ceil(wanted / step) * step
        if steps > 1 and epoch != wanted:
            rank_zero_info(
                f"An epoch is {epoch} training samples in place of {wanted}: whole optimizer steps of {step} samples "
                "(batch_size x processes x accumulate_grad_batches)."
            )
        rank, world_size = self._process
        sampler = TrainingSampler(self._groups, epoch, seed=self.seed, rank=rank, world_size=world_size, pool=self.pool)
        loader = ResumableLoader(
            Remembered(dataset) if self.pool is not None and self.num_workers == 0 else dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        loader.trained = None if self.trainer is None else 0
        return loader

    def finite_dataloaders(self, batch_size: int, rank: int = 0, world_size: int = 1) -> dict[str, DataLoader[Any]]:
        """All low-quality images that a training of any length will see, once: the pool's and those of validation.

        Process r of n gets the images r, r + n, ... of each; a share may be empty.

        Args:
            batch_size: Training samples per batch; validation images come as in validation.
            rank: This process.
            world_size: Number of processes.

        Returns:
            Batches by split, `train` and, where there is a validation set, `val`.

        Raises:
            ValueError: If the samples do not repeat, or are not made in the worker.
        """
        if self.pool is None:
            raise ValueError("Expected a finite number of training samples, found no `pool`: set the data's `pool`.")
        if self.degrade_on == "device" and self._splits.files("train").counts[0]:
            raise ValueError(
                "Expected training images that are degraded in the worker, found `degrade_on: device`: on a GPU they "
                "may differ in the last bit, and would not be found again. Set `degrade_on: worker`, or train on pairs."
            )
        draws = TrainingSampler(self._groups, self.pool, seed=self.seed)
        shares: dict[str, list[Any]] = {"train": list(draws)}
        if "val" in self._datasets:
            shares["val"] = list(range(length(self._datasets["val"])))
        return {
            split: DataLoader(
                self._datasets[split],
                batch_size=batch_size if split == "train" else self.eval_batch_size,
                sampler=share[rank::world_size],
                collate_fn=collate,
                num_workers=self.num_workers,
                pin_memory=torch.cuda.is_available(),
            )
            for split, share in shares.items()
        }

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Validation batches, or an empty list where no photo is held out."""
        return self._evaluation_loader("val", persistent=True) if "val" in self._datasets else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Test batches."""
        return self._evaluation_loader("test") if "test" in self._datasets else []

    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Low-quality images one by one, whose ground truth is None."""
        return self._evaluation_loader("predict", batch_size=1) if "predict" in self._datasets else []

    def on_after_batch_transfer(self, batch: Batch | PlannedBatch, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Degrade on the device what was not degraded in a worker."""
        return batch.apply() if isinstance(batch, PlannedBatch) else batch

    @property
    def validation_photos(self) -> list[Path]:
        """The photos that are validated on, and so never trained on, where some are held out."""
        return [photo.path for photo in self._splits.files("val").photos]

    @property
    def test_images(self) -> list[Path]:
        """The files of the test set: photos and both sides of pairs."""
        return sorted(self._splits.files("test" if self._splits.named("test") else "val").paths)

    @property
    def _process(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    @property
    def _groups(self) -> list[tuple[int, float]]:
        dataset = self._datasets["train"]
        assert isinstance(dataset, MixedDataset)
        return dataset.groups

    def _evaluation_loader(
        self, split: str, *, batch_size: int | None = None, persistent: bool = False
    ) -> DataLoader[Any]:
        dataset = self._datasets[split]
        rank, world_size = self._process
        return DataLoader(
            dataset,
            batch_size=batch_size or self.eval_batch_size,
            sampler=EvaluationSampler(length(dataset), rank=rank, world_size=world_size),
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=persistent and self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _build(self, split: str) -> Dataset[Sample] | None:
        """Make the dataset of a split; None if there is no validation set."""
        if split == "predict" and self.sources["predict"]:
            return LowQualityDataset(self._splits.files("predict").photos, self._cache)
        if split in {"test", "predict"} and not self._splits.named(split):
            doing = {"test": "testing on", "predict": "restoring the low-quality images of"}[split]
            rank_zero_info(f"`{split}` names no folder: {doing} the validation set.")
            dataset = self._build("val")
            if dataset is None:
                raise ValueError(f"Expected a folder in `{split}`, or a validation set, found none. Name a folder.")
            return dataset if split == "test" else WithoutTruth(dataset)
        files = self._splits.files(split)
        training = split == "train"
        crop, repeats = (self.crop, 1) if training else (self.val_crop, self.val_repeats)
        sharpen, defer = training and self.sharpen_gt, training and self.degrade_on == "device"
        options = (self.scale, crop, self.seed, repeats)
        sources = sorted(files.sources, key=lambda source: training and source.weight is not None)
        parts: list[RestorationDataset] = [
            PairDataset(source.pairs, self._cache, *options)
            if source.pairs
            else PhotoDataset(
                source.photos,
                self._cache,
                self.degradation,
                *options,
                sharpen=sharpen,
                defer=defer,
                min_side=source.min_side,
            )
            for source in sources
        ]
        return MixedDataset(parts, [source.weight for source in sources]) if parts else None
