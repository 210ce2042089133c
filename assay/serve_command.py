"""`assay serve NAME`: read a service's YAML, build its scorers and host them.

A service is a module with `build_scorers(settings: dict) -> list[Scorer]`. Its YAML has two blocks: `scorer:`, given
to that function, and `serve:`, the `ServeConfig`. Modules are looked up by name in `SERVICES` and imported only when
asked for, so `assay` depends on no service.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import Field

from assay.config import ConfigModel, load_config
from assay.errors import ConfigError
from assay.serving.settings import ServeConfig

#: name -> (module with `build_scorers`, configuration used by default, relative to the repository).
SERVICES = {
    "geneval": ("services.geneval.service", "configs/services/geneval.yaml"),
    "spatial": ("services.spatial.service", "configs/services/spatial.yaml"),
    "verifier": ("services.verifier.service", "configs/services/verifier.yaml"),
}


class ServiceConfig(ConfigModel):
    """The YAML of a service."""

    scorer: dict[str, Any] = Field(default_factory=dict, description="settings of the scorers")
    serve: ServeConfig = Field(default_factory=ServeConfig)


def run_service(name: str, config_path: Path | None, overrides: list[str]) -> int:
    """Serve until told to stop; the exit code.

    Raises:
        ConfigError: no such service, or its settings are wrong.
    """
    if name not in SERVICES:
        raise ConfigError(f"no service {name!r}; there are: {', '.join(sorted(SERVICES))}", reason="SERVICE_UNKNOWN")
    module_name, default_config = SERVICES[name]
    config = load_config(ServiceConfig, config_path or find_in_repository(default_config), overrides)
    # Here, for it loads FastAPI and the rest of the serving extra.
    from assay.serving.lifecycle import configure_logging, serve

    configure_logging(config.serve.log_format)
    scorers = import_module(module_name).build_scorers(config.scorer)
    return serve(scorers, config.serve, f"assay-{name}")


def find_in_repository(relative: str) -> Path:
    """A file of the repository: from the current directory upwards, then beside the installed package.

    Raises:
        ConfigError: it is nowhere.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / relative).is_file():
            return folder / relative
    raise ConfigError(f"{relative} was not found in {here} or above it; name a file with --config")
