"""Where published weights are looked for, how they are fetched and read, and what is said when they are missing."""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ctsr_lightning.files import file_hash
from ctsr_lightning.metrics.third_party import patched_constructor
from ctsr_lightning.weights import published as table
from ctsr_lightning.weights import search as weights
from ctsr_lightning.weights.published import WeightFile
from ctsr_lightning.weights.reading import read_state_dict
from ctsr_lightning.weights.search import MissingWeightsError, find_published, find_weights, weight_search_path

CONTENT = bytes(range(256)) * 5000
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "torch"


def published(url: str = "http://127.0.0.1:9/net-12345678.pth", sha256: str = HASH[:8]) -> WeightFile:
    return WeightFile(("net-12345678.pth", "other.pth"), url, folder="pyiqa", sha256=sha256, note="a test's network")


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestLookup:
    def test_default_place_follows_torch_home(self, torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert find_published(published()) is None
        path = put(torch_home / "hub" / "pyiqa" / "net-12345678.pth")
        assert find_weights(published()) == path
        monkeypatch.setenv("TORCH_HOME", str(torch_home / "elsewhere"))
        assert find_published(published()) is None

    def test_other_names_are_accepted(self, torch_home: Path) -> None:
        other = put(torch_home / "hub" / "pyiqa" / "other.pth")
        assert find_weights(published()) == other
        first = put(torch_home / "hub" / "pyiqa" / "net-12345678.pth")
        assert find_weights(published()) == first

    @pytest.mark.parametrize("layout", ["", "pyiqa", "hub/pyiqa"])
    def test_folders_come_first_in_their_order(self, torch_home: Path, tmp_path: Path, layout: str) -> None:
        put(torch_home / "hub" / "pyiqa" / "net-12345678.pth")
        (tmp_path / "empty").mkdir()
        first = put(tmp_path / "a" / layout / "other.pth")
        second = put(tmp_path / "b" / "net-12345678.pth")
        put(tmp_path / "c" / "anywhere" / "net-12345678.pth")
        with weight_search_path(tmp_path / "empty", tmp_path / "a", tmp_path / "b"):
            assert find_weights(published()) == first
        with weight_search_path(tmp_path / "a"), weight_search_path(tmp_path / "b"):
            assert find_weights(published()) == second
        with weight_search_path(tmp_path / "c"):
            assert find_weights(published()).is_relative_to(torch_home)

    def test_paths_and_published_files_have_one_search_path(self, tmp_path: Path) -> None:
        put(tmp_path / "outer" / "net-12345678.pth")
        path = put(tmp_path / "outer" / "runs" / "w.ckpt")
        with weight_search_path(tmp_path / "outer"), weight_search_path(tmp_path):
            assert find_weights("runs/w.ckpt") == path
            assert find_weights(published()) == tmp_path / "outer" / "net-12345678.pth"

    def test_absent_folders_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"), weight_search_path(tmp_path, tmp_path / "nowhere"):
            pytest.fail("entered")

    def test_a_missing_file_says_all_there_is_to_know(
        self, torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *_, **__: pytest.fail("went to the network"))
        start = time.perf_counter()
        with weight_search_path(tmp_path), pytest.raises(MissingWeightsError) as error:
            find_weights(published())
        assert time.perf_counter() - start < 0.5
        assert isinstance(error.value, FileNotFoundError)
        remedies = ["--weights FOLDER", "TORCH_HOME", "--download", str(torch_home / "hub" / "pyiqa")]
        for expected in ("net-12345678.pth", "a test's network", f"'{tmp_path}'", published().url, *remedies):
            assert expected in str(error.value)

    def test_every_published_file_is_complete(self) -> None:
        files = [value for value in vars(table).values() if isinstance(value, WeightFile)]
        assert len(files) == 9
        for file in files:
            assert file.url.startswith("https://")
            assert file.url.endswith(f"/{file.names[0]}")
            assert file.folder in {"checkpoints", "pyiqa", "clip"}
            assert file.note
            stem = Path(file.names[0]).stem
            if "-" in stem:  # the field's habit: the name ends with the first digits of the hash
                assert file.sha256.startswith(stem.rsplit("-", maxsplit=1)[1])


class Server(BaseHTTPRequestHandler):
    """Serves the content; below /cut/ it hangs up half way, below /gone/ it has nothing."""

    asked: list[dict[str, str]] = []  # noqa: RUF012  # of the requests' headers

    def do_GET(self) -> None:
        self.asked.append(dict(self.headers))
        self.send_response(404 if "gone" in self.path else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if "cut" in self.path else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


class TestDownload:
    def test_fetches_into_the_default_place(
        self, server: str, torch_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place = torch_home / "hub" / "pyiqa" / "net-12345678.pth"
        put(place.with_name(f".{place.name}.left-over"), CONTENT[:100])  # of an attempt that was killed
        with weight_search_path(tmp_path, download=True):
            assert find_weights(published(f"{server}/net-12345678.pth", HASH)) == place
            find_weights(published(f"{server}/net-12345678.pth"))
        assert place.read_bytes() == CONTENT
        assert len(Server.asked) == 1
        assert "Range" not in Server.asked[0]
        out, err = capsys.readouterr()
        assert out == ""
        assert "net-12345678.pth" in err

    def test_inner_contexts_keep_the_permission(self, server: str, tmp_path: Path) -> None:
        with weight_search_path(download=True), weight_search_path(tmp_path):
            assert find_weights(published(f"{server}/net-12345678.pth")).is_file()

    def test_files_can_be_fetched_by_file_url(self, tmp_path: Path) -> None:
        with weight_search_path(download=True):
            assert find_weights(published(put(tmp_path / "source.pth").as_uri())).read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("folder", "sha256", "cause"),
        [
            ("", "0" * 64, f"SHA-256 is {HASH}"),
            ("cut/", HASH, f"after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
            ("gone/", HASH, "404"),
        ],
    )
    def test_only_whole_files_of_the_published_hash_stay(
        self, server: str, torch_home: Path, folder: str, sha256: str, cause: str
    ) -> None:
        with weight_search_path(download=True), pytest.raises(MissingWeightsError) as error:
            find_weights(published(f"{server}/{folder}net-12345678.pth", sha256))
        assert cause in str(error.value)
        assert "--weights FOLDER" in str(error.value)
        assert list((torch_home / "hub" / "pyiqa").rglob("*")) == []
        assert len(Server.asked) == 1

    def test_an_unreachable_server_fails_at_once(self) -> None:
        start = time.perf_counter()
        with (
            weight_search_path(download=True),
            pytest.raises(MissingWeightsError, match=r"downloading it failed.*refused"),
        ):
            find_weights(published())
        assert time.perf_counter() - start < 2.0

    def test_a_place_that_cannot_be_written_is_named(self, server: str, torch_home: Path) -> None:
        put(torch_home)  # a file where the folder would be
        with weight_search_path(download=True), pytest.raises(MissingWeightsError, match="downloading it failed"):
            find_weights(published(f"{server}/net-12345678.pth"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return open, (str(Path.cwd() / "executed"), "w")


class TestReading:
    STATE = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}  # noqa: RUF012

    @pytest.mark.parametrize("wrapper", ["", "params", "state_dict"])
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_wrappers_and_prefixes_are_removed(self, tmp_path: Path, wrapper: str, prefix: str) -> None:
        state = {f"{prefix}{key}": value for key, value in self.STATE.items()}
        torch.save({wrapper: state} if wrapper else state, tmp_path / "net.pth")
        read = read_state_dict(tmp_path / "net.pth")
        assert list(read) == ["a", "b"]
        assert all(torch.equal(read[key], value) for key, value in self.STATE.items())

    def test_safetensors_and_the_old_format(self, tmp_path: Path) -> None:
        save_file(self.STATE, tmp_path / "net.safetensors")
        torch.save(self.STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        for name in ("net.safetensors", "old.pth"):
            assert read_state_dict(tmp_path / name)["a"].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_truncated_files_are_refused(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"net{suffix}"
        state = {"a": torch.rand(1000)}
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=rf"net{suffix}.*cannot be read"):
            read_state_dict(path)

    @pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
    def test_code_is_refused_and_not_executed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: object
    ) -> None:
        monkeypatch.chdir(tmp_path)
        writer({"a": Bomb()}, tmp_path / "net.pth")
        with pytest.raises(ValueError, match="cannot be read safely"):
            read_state_dict(tmp_path / "net.pth")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("content", [[1, 2], {"a": 1.0}, {"a": {"b": torch.ones(1)}}])
    def test_other_content_is_refused(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(ValueError, match="dictionary of tensors"):
            read_state_dict(tmp_path / "net.pth")

    def test_hash(self, tmp_path: Path) -> None:
        assert file_hash(put(tmp_path / "file")) == HASH


class Owner:
    function = staticmethod(lambda: "original")


def test_building_has_no_side_effects(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state()
    with suppress(KeyError), patched_constructor(Owner, "function", lambda: "substitute"):
        print("talk")
        torch.rand(3)
        assert Owner.function() == "substitute"
        raise KeyError
    assert Owner.function() == "original"
    assert torch.equal(before, torch.get_rng_state())
    assert capsys.readouterr().out == ""
