//! `FileSystemProtocol` over real gRPC: sessions, leases with recall, orphans, locks, durability.

mod batches;
mod delegations;
mod frames;
mod grace;
mod harness;
mod locks;
mod orphans;
mod relaxed;
mod session;
mod sessions;
mod shared_directories;
