//! What any CRI runtime must do: runs against Berth, and with `CRI_ENDPOINT` against another. Every module is a part of
//! the CRI; names that begin with `newer_` are about parts that runtimes of 2023 did not have yet.

mod bad_input;
mod cve;
mod events;
mod exec;
mod idempotency;
mod image_volumes;
mod images;
mod lifecycle;
mod logs;
mod mounts;
mod network;
mod process;
mod resize;
mod resources;
mod stats;
mod stream_attach;
mod stream_exec;
mod stream_port_forward;
mod user_namespaces;
