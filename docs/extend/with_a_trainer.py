"""Train an autoencoder with the classes alone: no configuration, no command line."""

from lightning.pytorch import Trainer

from ctsr_lightning.callbacks import Evaluation, WeightsWriter
from ctsr_lightning.codecs import NanoCodec
from ctsr_lightning.data import RealESRGANDataModule
from ctsr_lightning.modules import CodecTraining


def train(steps: int = 1000, **trainer: object) -> CodecTraining:
    """Train on the photographs of scikit-image."""
    data = RealESRGANDataModule(crop=64, val_crop=64, val_repeats=1, batch_size=4, samples_per_epoch=400, num_workers=0)
    training = CodecTraining(NanoCodec(channels=24), latent_noise=0.06, scale=4)
    callbacks = [Evaluation(), WeightsWriter()]
    Trainer(max_steps=steps, callbacks=callbacks, **trainer).fit(training, data)
    return training


if __name__ == "__main__":
    train()
