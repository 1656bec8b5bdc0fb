"""Bases of toy size for the tests of loaders."""

import pytest

from helpers.ldm_layout import toy_networks, whole_model, write_model


@pytest.fixture
def networks():
    return toy_networks()


@pytest.fixture
def model(tmp_path, networks):
    return write_model(tmp_path / "model", networks)


@pytest.fixture
def single(networks):
    return whole_model(networks)
