//! Compiles `proto/` with protox, a protobuf compiler in Rust, so that no `protoc` has to be installed.

/// What a runtime keeps on disk, as JSON that a person can read: the two configurations and all they contain. Unknown
/// fields are ignored and missing ones default, so that records outlive an upgrade in either direction.
const KEPT: &[&str] = &[
    "CDIDevice",
    "Capability",
    "ContainerConfig",
    "ContainerMetadata",
    "DNSConfig",
    "Device",
    "HugepageLimit",
    "IDMapping",
    "ImageSpec",
    "Int64Value",
    "KeyValue",
    "LinuxContainerConfig",
    "LinuxContainerResources",
    "LinuxContainerSecurityContext",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "Mount",
    "NamespaceOption",
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "PortMapping",
    "SELinuxOption",
    "SecurityProfile",
    "UserNamespace",
    "WindowsContainerConfig",
    "WindowsContainerResources",
    "WindowsContainerSecurityContext",
    "WindowsCpuGroupAffinity",
    "WindowsNamespaceOption",
    "WindowsPodSandboxConfig",
    "WindowsSandboxSecurityContext",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    // An exec's output, up to 16 MiB a stream, is shared and not copied on its way out.
    let mut config = tonic_prost_build::configure().build_transport(false).bytes(".runtime.v1.ExecSyncResponse");
    for message in KEPT {
        let path = format!(".runtime.v1.{message}");
        config = config
            .type_attribute(&path, "#[derive(serde::Serialize, serde::Deserialize)]")
            .message_attribute(&path, "#[serde(default)]");
    }
    config.compile_fds(protox::compile(["services.proto"], ["proto"])?)?;
    Ok(())
}
