//! Compiles `proto/runtime.proto` with protox, a protobuf compiler in Rust, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/runtime.proto");
    let descriptors = protox::compile(["proto/runtime.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".runtime.v1.ExecSyncResponse")
        .compile_fds(descriptors)?;
    Ok(())
}
