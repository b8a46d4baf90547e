"""YAML files, `_base_` layers and `-o` overrides to one checked, printable Config; nothing is ever evaluated.

    config = check(load_config("swav.yaml", ["Global.epochs=100"]))
    config.Global.epochs, config.where("Global.epochs")      # 100, '-o Global.epochs=100'
"""
from passl.config.check import check
from passl.config.config import Config
from passl.config.layers import load_config
from passl.errors import ConfigError, ConfigWarning

__all__ = ["Config", "ConfigError", "ConfigWarning", "check", "load_config"]
