//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    // Messages only: the services are ttrpc's, not gRPC's. Ordered maps, so that a message has one encoding.
    let config = tonic_prost_build::configure().build_client(false).build_server(false).btree_map(".");
    config.compile_fds(protox::compile(["nri.proto", "ttrpc.proto"], ["proto"])?)?;
    Ok(())
}
