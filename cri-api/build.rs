//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["services.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Up to 16 MiB each way: shared, not copied, on their way out of an exec.
        .bytes(".runtime.v1.ExecSyncResponse")
        .compile_fds(descriptors)?;
    Ok(())
}
