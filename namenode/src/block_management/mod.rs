//! Blocks, replicas and datanodes.
