"""GRPO's mathematics as pure functions of tensors and numbers; `docs/paper.md` maps equations to them."""
