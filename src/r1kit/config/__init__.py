"""Typed, frozen configs. A config checks itself when it is made, before any compute, and is saved in the run folder.

The string under a field is its documentation and its `--help`. No torch here.
"""

from r1kit.config.common import Device, DType, OptimConfig, from_dict, to_dict
from r1kit.config.data import EndpointConfig, PreferencesConfig, ReadableConfig, RejectConfig
from r1kit.config.evaluate import ChatConfig, EvalConfig
from r1kit.config.pretrain import ModelShape, PretrainConfig
from r1kit.config.rl import AlgoConfig, RewardConfig, RLConfig
from r1kit.config.supervised import DistillConfig, OnPolicyConfig, RewardModelConfig, SFTConfig

__all__ = [
    "AlgoConfig", "ChatConfig", "DType", "Device", "DistillConfig", "EndpointConfig", "EvalConfig", "ModelShape",
    "OnPolicyConfig", "OptimConfig", "PreferencesConfig", "PretrainConfig", "RLConfig", "ReadableConfig",
    "RejectConfig", "RewardConfig", "RewardModelConfig", "SFTConfig", "from_dict", "to_dict",
]  # fmt: skip
