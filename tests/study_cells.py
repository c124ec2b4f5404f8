"""What the cells of a study are kept under: its main is run up to where it says so."""
import importlib


class Asked(Exception):
    """The modules, in its args."""


def modules_of_cells(name: str, monkeypatch, out) -> tuple:
    """The modules whose change makes the cells of this study new; `out` needs no files."""
    def asked(folder, modules):
        raise Asked(*modules)
    study = importlib.import_module(name)
    monkeypatch.setattr(study, "Cells", asked)
    monkeypatch.setattr(study, "content_hash", lambda *paths: "", raising=False)
    monkeypatch.setattr("sys.argv", [name, "--out", str(out)])
    try:
        study.main()
    except Asked as found:
        return found.args
    raise AssertionError(f"{name} has no cells")
