"""YAML files, `_base_` layers and `-o` overrides to one checked, printable Config; nothing is ever evaluated.

    config = check(load_config("swav.yaml", ["Global.epochs=100"]))
    config.Global.epochs, config.where("Global.epochs")      # 100, '-o Global.epochs=100'
"""
from .check import check
from .config import Config
from .errors import ConfigError, ConfigWarning
from .loader import load_config

__all__ = ["Config", "ConfigError", "ConfigWarning", "check", "load_config"]
