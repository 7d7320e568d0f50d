//! The Kubernetes Container Runtime Interface (CRI), version `runtime.v1`, as a Rust crate: every message, enum and
//! RPC, with a tonic client and server for both services.

/// Messages, enums, clients and servers of the protobuf package `runtime.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
