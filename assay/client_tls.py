"""How whoever calls services takes part in TLS: settings that trainers and batch jobs have in common."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from assay.config import ConfigModel
from assay.errors import ConfigError


class ClientTls(ConfigModel):
    """A base for settings of what calls services. All files are in PEM form."""

    tls_ca: Path | None = Field(None, description="the services' authority; switches TLS on")
    tls_certificate: Path | None = Field(None, description="one's own certificate, where services want one")
    tls_key: Path | None = Field(None, description="the key that goes with it")

    @model_validator(mode="after")
    def _files_go_together(self) -> Self:
        check_tls(**self.tls_files)
        return self

    @property
    def tls_files(self) -> dict[str, Any]:
        """As arguments of `RewardClient`."""
        return {name: getattr(self, name) for name in ClientTls.model_fields}


def check_tls(tls_ca: Path | str | None, tls_certificate: Path | str | None, tls_key: Path | str | None) -> None:
    """Raises: ConfigError: half of a pair, or a pair without the authority of who is to see it."""
    if (tls_certificate is None) != (tls_key is None):
        missing = "tls_certificate" if tls_certificate is None else "tls_key"
        raise ConfigError(f"tls_certificate and tls_key belong together: {missing} is missing; give both or neither")
    if tls_ca is None and tls_certificate is not None:
        raise ConfigError("tls_certificate needs tls_ca, the authority of the service's certificate")
