//! Sentences that several pieces of advice share.

pub const SIMULATE: &str =
    "Without a GPU: run this command with `--driver sim:h200@13.0`, simulated.";
pub const GIVE_GPUS: &str = "`docker run --gpus all`, `podman run --device nvidia.com/gpu=all`, or a limit of \
     nvidia.com/gpu in Kubernetes. The host needs a driver and the NVIDIA Container Toolkit for it.";
