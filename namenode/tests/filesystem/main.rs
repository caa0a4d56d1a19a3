//! `FileSystemProtocol` over real gRPC: sessions, leases with recall, orphans, locks, durability.

mod delegations;
mod frames;
mod harness;
mod locks;
mod orphans;
mod relaxed;
mod sessions;
