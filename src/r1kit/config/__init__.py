"""Typed, frozen configs. A config checks itself when it is made, before any compute, and is saved in the run folder.

The string under a field is its documentation and its `--help`. No torch here.
"""

from r1kit.config.common import (
    ALL_LINEAR,
    Device,
    DType,
    LoraConfig,
    MemoryConfig,
    OptimConfig,
    SamplerKind,
    TrackerName,
    VllmConfig,
    from_dict,
    to_dict,
)
from r1kit.config.data import EndpointConfig, PreferencesConfig, ReadableConfig, RejectConfig
from r1kit.config.evaluate import ChatConfig, EvalConfig, EvaluateConfig
from r1kit.config.pretrain import ModelShape, PretrainConfig
from r1kit.config.push import PushConfig
from r1kit.config.rl import AlgoConfig, RewardConfig, RLConfig
from r1kit.config.score import ScoreConfig
from r1kit.config.source import ColumnsConfig, DataConfig, FilterConfig
from r1kit.config.supervised import DistillConfig, OnPolicyConfig, RewardModelConfig, SFTConfig

__all__ = [
    "AlgoConfig", "ChatConfig", "ColumnsConfig", "DataConfig", "DType", "Device", "DistillConfig", "EndpointConfig",
    "EvalConfig", "EvaluateConfig", "FilterConfig", "ALL_LINEAR",
    "LoraConfig", "MemoryConfig", "ModelShape", "OnPolicyConfig", "OptimConfig", "PreferencesConfig", "PretrainConfig",
    "PushConfig", "RLConfig", "ReadableConfig", "RejectConfig", "RewardConfig", "RewardModelConfig", "SFTConfig",
    "SamplerKind", "ScoreConfig", "TrackerName", "VllmConfig",
    "from_dict", "to_dict",
]  # fmt: skip
